"""Every registered method behind the glass against the harness' own process: ids, forward passes and steps;
and what the glass costs.

    python -m tests.tools.glass_check [--limit 4] [--passes 5] [METHOD ...]

Prints a Markdown row per method on the quickstart's model (or a tiny one of the family that it needs):
whether batches of 1 and 4 are equal on both sides and all checks passed; at batch 1 the forward passes per
answer, and milliseconds per forward pass inside and outside, medians over passes that take turns, with the
share that the glass adds. One thread.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.decoding.registry import load_method, method_names
from harness.decoding.settings import setting_names
from harness.engine.generator import Generator, Request
from harness.engine.isolation.cost import measure
from harness.engine.isolation.decoder import IsolatedDecoder
from harness.engine.isolation.finding import find_method
from harness.engine.loader import Loaded, load
from harness.errors import UserError
from methods.duo.model import Denoiser, denoiser_spec, save_denoiser
from suites.suite import load_suite

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {"block_diffusion": "sdar_tiny"}
NEEDED: dict[str, dict[str, Any]] = {"prophet": {"answer_start": 16}, "duo": {"steps": 8}}


@dataclasses.dataclass
class Pass:
    """One pass over the prompts: facts of every answer, seconds and forward passes of all, failed checks."""

    facts: list[Any]
    seconds: float
    forwards: int
    failed: list[str]


def answers(generator: Generator, requests: list[Request], size: int) -> Pass:
    """Decode all requests in batches of ``size``."""
    rows = [item for batch in generator.run(requests, size) for item in batch]
    facts = [
        (one.error, one.decoded and (one.decoded.output, one.decoded.step_map, one.decoded.forwards))
        for one in rows
    ]
    done = [one.decoded for one in rows if one.decoded]
    failed = sorted({check.name for row in done for check in row.checks if not check.passed})
    return Pass(facts, sum(row.time_s for row in done), sum(row.nfe for row in done), failed)


@contextlib.contextmanager
def model_for(name: str, requires: frozenset[str]) -> Iterator[Loaded]:
    """The quickstart's model, or a tiny one where the method needs another family."""
    if name != "duo":
        yield load(str(GOLDEN / TINY[name]) if name in TINY else "nano", requires)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_denoiser(Path(folder), Denoiser(denoiser_spec(11, hidden=16, layers=1, heads=2, levels=16)), 0)
        yield load(folder, requires)


def compare(name: str, limit: int, passes: int) -> list[str]:
    """The cells of one row."""
    inside, outside = find_method(name, isolate=True).decoder, load_method(name).decoder
    with model_for(name, outside.requires) as loaded:
        # A block size that divides both canvases.
        settings = {"block_length": 16} if "block_length" in setting_names(outside.Config) else {}
        settings |= NEEDED.get(name, {})
        glass, own = (Generator(loaded, decoder, settings) for decoder in (inside, outside))
        suite = load_suite("nano-code")
        canvas = glass.canvas(suite.canvas if loaded.tokenizer else 16)
        prompts: list[Any] = (
            [suite.prompt(doc) for _, doc in suite.docs(limit)] if loaded.tokenizer else [[0, 3, 4]] * limit
        )
        requests = [Request(prompt, canvas, tuple(suite.stop)) for prompt in prompts]
        four, plain = answers(glass, requests, 4), answers(own, requests, 4)
        pairs = [(answers(glass, requests, 1), answers(own, requests, 1)) for _ in range(passes + 1)]
        equal = four.facts == plain.facts and all(one.facts == other.facts for one, other in pairs)
        refused = next((error for error, _ in four.facts if error), None)
        failed = sorted({check for one, _ in pairs for check in one.failed} | set(four.failed))
        words = f"refused: {refused}" if refused else "yes" if equal else "NO"
        if plain.forwards == 0 or refused:
            return [name, words, "", "", "", ""]
        per = [[1e3 * one[k].seconds / one[k].forwards for one in pairs[1:]] for k in (0, 1)]
        ratio = statistics.median(one / other for one, other in zip(*per, strict=True))
        return [
            name + ("" if loaded.tokenizer else " (tiny model)"),
            words + (f"; failed: {', '.join(failed)}" if failed else ""),
            f"{pairs[0][1].forwards / limit:.1f}",
            f"{statistics.median(per[1]):.2f}",
            f"{statistics.median(per[0]):.2f}",
            f"{100 * (ratio - 1):+.1f}%",
        ]


def main() -> None:
    """Compare the named methods, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--limit", type=int, default=4, help="prompts")
    parser.add_argument("--passes", type=int, default=5, help="timed passes on either side")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | equal | passes per answer | ms per pass, own process | behind glass | above it |")
    print("|---|---|---|---|---|---|")
    for name in given.methods or method_names():
        try:
            cells = compare(name, given.limit, given.passes)
        except (UserError, FileNotFoundError) as error:
            cells = [name, f"not compared: {error}", "", "", "", ""]
        print("| " + " | ".join(cells) + " |", flush=True)
    decoder = find_method("vanilla", isolate=True).decoder
    assert isinstance(decoder, IsolatedDecoder)
    print(measure(decoder, load("nano").spec))


if __name__ == "__main__":
    main()
