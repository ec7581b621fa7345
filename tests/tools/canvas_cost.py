"""What a new token and an answer cost at several canvas lengths, and the share of time outside forwards.

python -m tests.tools.canvas_cost [--method NAME]... [--canvas N]... [--minutes M]

nano ends its answers early, so the head's logits are replaced: in every pass each place asked for is sure of
a token with a chance of one in four (drawn once, the same for every canvas), and no token ends a text. A
decoder's tokens per forward then hardly depend on the canvas. All cells in turns, every second round
backwards; medians of processor and of wall time. ``order``: by which power of the canvas the time of an
answer grew from half of it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn

from harness.decoding.backbone import Backbone
from harness.engine.generator import Generation, Generator, Request
from harness.engine.opening import Weights, open_engine
from harness.measuring.protocol import interleaved
from suites.suite import load_suite
from tests.tools.batching import Visit, timed

CANVASES = (128, 256, 512, 1024)
SURE = 0.25
METHODS = {
    "vanilla:tokens_per_step=4": 512,
    "fast_dllm:cache=prefix,block_length=8": 512,
    "fast_dllm:cache=dual,block_length=8": 1024,
    "d2f:block_size=8": 1024,
    "lopa:block_size=8": 1024,
    "streaming_dllm:block_length=8,suffix_window=32": 1024,
    "multi_block:block_length=8,cache_delay_iter=1": 512,
    "dkv_cache:tokens_per_step=4": 512,
}
"""Each with the longest canvas that takes less than a minute or so of one core."""


class ForcedHead(nn.Module):
    """The head with its time, and logits that say what the script says."""

    def __init__(self, head: nn.Module, vocabulary: int, special: int) -> None:
        """Ids from ``special`` on are plain tokens."""
        super().__init__()
        self.head, self.vocabulary, self.special, self.place = head, vocabulary, special, 0
        draws = torch.rand(1 << 16, generator=torch.Generator().manual_seed(0))
        # Ties between the unsure ones would be broken by position in some decoders alone.
        self.levels = torch.where(draws < SURE, 30.0 + draws, 1.0 + draws)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden).zero_()
        index = torch.arange(self.place, self.place + logits[..., 0].numel())
        self.place += len(index)
        ids = self.special + index % (self.vocabulary - self.special)
        flat = logits.view(-1, self.vocabulary)
        flat[torch.arange(len(index)), ids] = self.levels[index % len(self.levels)].to(flat.dtype)
        return logits


@dataclass(frozen=True)
class Cell:
    method: str
    canvas: int


def forced(method: str) -> tuple[Generator, ForcedHead]:
    """nano behind ``method``, its head scripted; answers end with the canvas."""
    generator = open_engine(method, Weights("nano"), stop_rule="reference").generator
    backbone = cast(Backbone, generator.loaded.backbone)
    spec, model = backbone.spec, backbone._model
    head = ForcedHead(model.lm_head, spec.vocab_size, 1 + max([*spec.eos_ids, spec.mask_id or 0]))
    model.lm_head = head  # pyright: ignore[reportAttributeAccessIssue]
    return generator, head


def visit(generator: Generator, head: ForcedHead, prompt: str, canvas: int) -> tuple[Visit, Generation]:
    head.place = 0
    one, (answer,) = timed(generator, [Request(prompt, canvas)])
    assert answer.decoded is not None
    assert len(answer.decoded.output) == canvas, "the answer ended before the canvas"
    return one, answer


def table(visits: dict[Cell, list[Visit]], answers: dict[Cell, Generation]) -> list[str]:
    """Lines of the table, one per cell."""
    lines = [
        "| decoder | canvas | tokens per forward | fed per token | ms per token, processor | wall | "
        "s per answer, processor | order | outside forwards | visits |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    took = {cell: median(one.processor for one in seen) for cell, seen in visits.items()}
    for cell, seen in visits.items():
        row, before = answers[cell].decoded, took.get(Cell(cell.method, cell.canvas // 2))
        assert row is not None
        wall = median(one.wall for one in seen)
        order = f"{math.log2(took[cell] / before):.2f}" if before else ""
        figures = [
            f"{cell.canvas / row.nfe:.2f}",
            f"{row.positions / cell.canvas:.1f}",
            f"{1e3 * took[cell] / cell.canvas:.2f}",
            f"{1e3 * wall / cell.canvas:.2f}",
            f"{took[cell]:.2f}",
            order,
            f"{median(one.outside for one in seen):.1%}",
            str(len(seen)),
        ]
        lines.append(f"| {cell.method} | {cell.canvas} | " + " | ".join(figures) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", action="append")
    parser.add_argument("--canvas", action="append", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12.0, help="no visit begins after them")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    suite, started = load_suite("nano-gsm"), time.monotonic()
    prompt = suite.prompt(next(iter(suite.docs(1)))[1])
    sides = {method: forced(method) for method in asked.method or METHODS}
    canvases = sorted(asked.canvas or CANVASES)
    cells = [
        Cell(method, canvas)
        for method in sides
        for canvas in canvases
        if canvas <= METHODS.get(method, max(canvases))
    ]
    visits: dict[Cell, list[Visit]] = defaultdict(list)
    answers: dict[Cell, Generation] = {}
    for side in sides.values():
        visit(*side, prompt, min(canvases))
    for place, turn in interleaved([asked.rounds] * len(cells)):
        if time.monotonic() - started > 60 * asked.minutes and turn:
            break
        cell = cells[place]
        one, answers[cell] = visit(*sides[cell.method], prompt, cell.canvas)
        visits[cell].append(one)
        print(f"{cell}: {one}", file=sys.stderr, flush=True)
    print("\n".join(table(visits, answers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
