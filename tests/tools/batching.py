"""Samples per second of decoders at several batch sizes, with and without continuous batching, and the share
of decode time outside forward passes.

python -m tests.tools.batching [--method NAME]... [--batch N]... [--minutes M]

All cells of a round are visited in turn, every second round backwards, the first call of a cell unrecorded;
medians over the rounds, of wall and of processor time. Every answer is compared with the first cell's: ids,
NFE and step map must be those of batch 1. Ends with the round in which the minutes are over.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from harness.engine.generator import Generation, Generator, Request
from harness.engine.opening import Weights, open_engine
from harness.measuring.protocol import interleaved
from harness.runs.cell import STREAM
from suites.suite import load_suite

METHODS = ("d2f", "fast_dllm:cache=dual")


@dataclass(frozen=True)
class Cell:
    """``rows``: prompts of one decode call, ``live`` of them at a time."""

    method: str
    live: int
    rows: int
    documents: int

    @property
    def name(self) -> str:
        return f"{self.live}, continuous" if self.rows > self.live else str(self.live)


@dataclass(frozen=True)
class Visit:
    wall: float
    processor: float
    outside: float


def cells(method: str, batches: Sequence[int], documents: int) -> list[Cell]:
    """Twice ``batch`` documents at least, so that a row can make room for another."""
    found = []
    for live in batches:
        count = max(documents, 2 * live)
        found.append(Cell(method, live, live, count))
        if live > 1:
            found.append(Cell(method, live, min(live * STREAM, count), count))
    return found


def visit(generator: Generator, cell: Cell, prompts: Sequence[str]) -> tuple[Visit, list[Generation]]:
    canvas = generator.canvas(load_suite("nano-gsm").canvas)
    return timed(
        generator, [Request(prompt, canvas) for prompt in prompts[: cell.documents]], cell.rows, cell.live
    )


def timed(
    generator: Generator, requests: Sequence[Request], rows: int = 1, live: int = 1
) -> tuple[Visit, list[Generation]]:
    """The answers, every audit passed, and what they took (seconds; share outside forwards)."""
    wall, processor = time.perf_counter(), time.process_time()
    found = [one for batch in generator.run(requests, rows, live) for one in batch]
    took = time.perf_counter() - wall, time.process_time() - processor
    decoded = [one.decoded for one in found if one.decoded is not None]
    assert len(decoded) == len(requests), next(one.error for one in found if one.error)
    assert all(row.audit_passed for row in decoded)
    outside = 1 - sum(row.forward_s for row in decoded) / sum(row.time_s for row in decoded)
    return Visit(*took, outside), found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", action="append")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9.0)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    suite, started = load_suite("nano-gsm"), time.monotonic()
    batches = asked.batch or [1, 4, 16, 64]
    prompts = [suite.prompt(doc) for _, doc in suite.docs(max(asked.documents, 2 * max(batches)))]
    chosen = asked.method or list(METHODS)
    generators = {method: open_engine(method, Weights("nano")).generator for method in chosen}
    places = [cell for method in chosen for cell in cells(method, batches, asked.documents)]
    visits: dict[Cell, list[Visit]] = defaultdict(list)
    told: dict[tuple[str, str], tuple[object, ...]] = {}
    for place, turn in interleaved([asked.rounds] * len(places)):
        if time.monotonic() - started > 60 * asked.minutes and len(visits) == len(places):
            break
        cell = places[place]
        if turn == 0:
            visit(generators[cell.method], Cell(cell.method, cell.live, cell.rows, cell.live), prompts)
        one, found = visit(generators[cell.method], cell, prompts)
        visits[cell].append(one)
        for answer in found:
            row = answer.decoded
            assert row is not None
            mine = (row.output, row.nfe, row.step_map)
            first = told.setdefault((cell.method, str(answer.request.prompt)), mine)
            assert mine == first, f"{cell}: another answer than the first cell's"
        print(f"{cell.method} {cell.name}: {one}", file=sys.stderr, flush=True)
    print("| decoder | batch | samples per s of wall time | of processor time | outside forwards | visits |")
    print("|---|---|--:|--:|--:|--:|")
    for cell, seen in visits.items():
        wall, processor = (
            median(cell.documents / getattr(one, name) for one in seen) for name in ("wall", "processor")
        )
        outside = median(one.outside for one in seen)
        print(f"| {cell.method} | {cell.name} | {wall:.1f} | {processor:.1f} | {outside:.1%} | {len(seen)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
