"""Compiled layers against eager ones on nano: the same answers, and the time of both in turns.

python -m tests.tools.compiled [--pairs N] [--method NAME]...

Pairs A B B A of decode calls at batch 1 and 16, processor time of each, medians of compiled / eager. Answers
must be equal in ids, NFE and step map, and every audit passed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from statistics import median

import torch

from harness.engine.generator import Generation, Generator, Request
from harness.engine.opening import Weights, open_engine
from suites.suite import load_suite

METHODS = ("fast_dllm:cache=dual", "d2f", "vanilla:tokens_per_step=4")


def call(generator: Generator, requests: Sequence[Request]) -> tuple[float, list[tuple[object, ...]]]:
    """Processor seconds, and the answers."""
    started = time.process_time()
    found: list[Generation] = [one for batch in generator.run(requests, len(requests)) for one in batch]
    took = time.process_time() - started
    rows = [one.decoded for one in found]
    assert all(row is not None and row.audit_passed for row in rows), [one.error for one in found]
    return took, [(row.output, row.nfe, row.step_map) for row in rows if row is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--method", action="append")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    suite = load_suite("nano-gsm")
    prompts = [suite.prompt(doc) for _, doc in suite.docs(16)]
    started = time.process_time()
    open_engine("vanilla", Weights("nano", compiled=True))
    print(f"compiling took {time.process_time() - started:.1f} s of processor time here", file=sys.stderr)
    print("| decoder | batch | eager, ms | compiled, ms | compiled / eager |")
    print("|---|--:|--:|--:|--:|")
    for method in asked.method or METHODS:
        sides = [
            open_engine(method, Weights("nano", compiled=compiled)).generator for compiled in (False, True)
        ]
        canvas = sides[0].canvas(suite.canvas)
        for rows in (1, 16):
            requests = [Request(prompt, canvas) for prompt in prompts[:rows]]
            (_, wanted), (_, found) = (call(side, requests) for side in sides)
            assert found == wanted, f"{method}, batch {rows}: compiled layers answer otherwise"
            times: list[list[float]] = [[], []]
            for pair in range(asked.pairs if rows == 1 else max(asked.pairs // 3, 2)):
                for place in (0, 1) if pair % 2 == 0 else (1, 0):
                    times[place].append(call(sides[place], requests)[0])
            ratio = median(after / before for before, after in zip(*times, strict=True))
            eager, compiled = (1e3 * median(side) for side in times)
            print(f"| {method} | {rows} | {eager:.1f} | {compiled:.1f} | {ratio:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
