"""Every registered method behind the glass against the harness' own process: ids, forward passes and steps;
and what the glass costs.

    python tests/tools/glass_check.py [--limit N] [METHOD ...]

Prints one line per method on the quickstart's model (or a tiny one of the family that it needs): equal or
what differs, seconds per forward pass of both, and whether writes_explained held.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from harness.decoding.registry import load_method, method_names
from harness.decoding.settings import setting_names
from harness.engine.generator import Generator, Request
from harness.engine.isolation.cost import measure
from harness.engine.isolation.decoder import IsolatedDecoder
from harness.engine.isolation.finding import find_method
from harness.engine.loader import load
from harness.errors import UserError
from suites.suite import load_suite

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {"block_diffusion": "sdar_tiny"}


def answers(
    generator: Generator, requests: list[Request], size: int
) -> tuple[list[Any], float, int, list[str]]:
    """Facts of every answer, seconds and forward passes of all, and the checks that failed."""
    rows = [item for batch in generator.run(requests, size) for item in batch]
    facts = [
        (one.error, one.decoded and (one.decoded.output, one.decoded.step_map, one.decoded.forwards))
        for one in rows
    ]
    done = [one.decoded for one in rows if one.decoded]
    failed = sorted({check.name for row in done for check in row.checks if not check.passed})
    return facts, sum(row.time_s for row in done), sum(row.nfe for row in done), failed


def compare(name: str, limit: int) -> str:
    """One line of the result."""
    try:
        inside, outside = find_method(name, isolate=True).decoder, load_method(name).decoder
        loaded = load(str(GOLDEN / TINY[name]) if name in TINY else "nano", outside.requires)
        # A block size that divides both canvases.
        settings = {"block_length": 16} if "block_length" in setting_names(outside.Config) else {}
        generators = [Generator(loaded, decoder, settings) for decoder in (inside, outside)]
        suite = load_suite("nano-code")
        canvas = generators[0].canvas(suite.canvas if loaded.tokenizer else 16)
        prompts: list[Any] = (
            [suite.prompt(doc) for _, doc in suite.docs(limit)] if loaded.tokenizer else [[3, 4, 5]] * limit
        )
        requests = [Request(prompt, canvas, tuple(suite.stop)) for prompt in prompts]
        words = []
        for size in (1, 4):
            (one, mine, count, failed), (other, own, _, _) = (
                answers(generator, requests, size) for generator in generators
            )
            refused = next((error for error, row in one if row is None), None)
            same = "equal" if one == other else f"refused: {refused}" if refused else "DIFFERS"
            per = (
                f"{1e3 * mine / count:.2f} and {1e3 * own / count:.2f} ms per pass" if count else "no passes"
            )
            words.append(f"batch {size}: {same}, {per}{'; ' + ', '.join(failed) if failed else ''}")
        return "; ".join(words)
    except (UserError, FileNotFoundError) as error:
        return f"not compared: {error}"


def main(words: list[str]) -> None:
    """Compare the named methods, or all."""
    torch.set_num_threads(1)
    limit = int(words[words.index("--limit") + 1]) if "--limit" in words else 2
    names = [word for word in words if not word.startswith("--") and not word.isdigit()] or method_names()
    for name in names:
        print(f"{name:18} {compare(name, limit)}", flush=True)
    decoder = find_method("vanilla", isolate=True).decoder
    assert isinstance(decoder, IsolatedDecoder)
    print(measure(decoder, load("nano").spec))


if __name__ == "__main__":
    main(sys.argv[1:])
