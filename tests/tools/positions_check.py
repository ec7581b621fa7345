"""Computed and metered positions of every decoder in batches:
``python -m tests.tools.positions_check [--batch 16] [--prompts 30,300]``.

Prompts are cut from the suites' own text to lengths of 0.5 to 1.5 times the asked one, so that the rows of a
batch differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.decoding.registry import load_method, method_names
from harness.engine.opening import open_engine
from harness.errors import UserError
from harness.measuring.clock import decode
from harness.model.text import encode
from suites.suite import load_suite

CANVAS, LONG, LONG_CANVAS = 48, 100, 16  # behind long prompts two blocks of 8 say as much and cost a third
SKIPPED = ("duo", "lockstep")  # other models, other canvases


def prompts_of(tokenizer: object, length: int, count: int) -> list[list[int]]:
    suite = load_suite("nano-gsm")
    text = " ".join(suite.prompt(doc) for _, doc in suite.docs(64))
    ids = encode(tokenizer, text, True)
    sizes = [max(2, length // 2 + length * k // max(count - 1, 1)) for k in range(count)]
    return [ids[:1] + ids[1 + 7 * k : 7 * k + size] for k, size in enumerate(sizes)]


def measure(method: str, batch: int, length: int, canvas: int) -> tuple[int, int, int]:
    """(metered, computed, padded to the longest) positions of one batch."""
    fields = load_method(method).decoder.Config.__dataclass_fields__
    settings = {name: 8 for name in ("block_length", "block_size") if name in fields}
    engine = open_engine(method, "nano", settings)
    prompts = prompts_of(engine.loaded.tokenizer, length, batch)
    rows = decode(engine.loaded.backbone, engine.method.decoder, engine.generator.config, prompts, canvas)
    longest = max(row.nfe for row in rows)
    padded = 0
    for step in range(longest):
        sizes = [row.forwards[step][0] for row in rows if step < row.nfe]
        padded += len(sizes) * max(sizes)
    return sum(row.positions for row in rows), sum(row.computed for row in rows), padded


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", default="30,300")
    options = parser.parse_args(argv)
    print(
        "method, prompt tokens, metered, computed, computed / metered, what padding to the longest would "
        "compute"
    )
    for name in method_names():
        for length in map(int, options.prompts.split(",")) if name not in SKIPPED else []:
            try:
                metered, computed, padded = measure(
                    name, options.batch, length, LONG_CANVAS if length >= LONG else CANVAS
                )
            except UserError as error:
                print(f"{name}, {length}: {error}")
                continue
            print(f"{name}, {length}, {metered}, {computed}, {computed / metered:.3f}, {padded}", flush=True)


if __name__ == "__main__":
    main()
