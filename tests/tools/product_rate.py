"""How near a decoder's matrix products come to the rate that the same shapes reach alone.

python -m tests.tools.product_rate [--method NAME]... [--documents N] [--rounds R] [--rows N]...

Every product with a weight (blocks and head) is timed where a decoder makes it. Then the same products: once
more in their order with nothing between (the same weights take turns in the cache), and each shape again and
again (its weight stays there). All in turns, medians over the rounds, on the clock: for a quiet core.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from harness.engine.generator import Generator, Request
from harness.engine.opening import Weights, open_engine
from suites.suite import load_suite
from tests.tools.batching import timed

METHODS = ("vanilla:tokens_per_step=4", "fast_dllm:cache=prefix", "fast_dllm:cache=dual", "d2f", "lopa")
Shape = tuple[int, int, int]
"""Rows, inputs and outputs of a product."""


@dataclass
class Products(TorchFunctionMode):
    """Shape, weight, bias and seconds of every product with a weight while the mode is on."""

    calls: list[tuple[Shape, Tensor, Tensor | None, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not linear:
            return func(*args, **(kwargs or {}))
        x, weight, *bias = args
        started = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        took = time.perf_counter() - started
        shape = (x.numel() // x.shape[-1], weight.shape[1], weight.shape[0])
        self.calls.append((shape, weight, bias[0] if bias else None, took))
        return found

    @property
    def work(self) -> float:
        """Multiplications and additions in units of 10^9."""
        return sum(2e-9 * a * b * c for (a, b, c), *_ in self.calls)

    def inside(self) -> float:
        """Seconds where the decoder made them."""
        return sum(took for *_, took in self.calls)

    @torch.inference_mode()
    def in_order(self) -> float:
        """Seconds of the same products with nothing between."""
        inputs = {shape: torch.randn(shape[:2]) for shape, *_ in self.calls}
        total = 0.0
        for shape, weight, bias, _ in self.calls:
            x = inputs[shape]
            started = time.perf_counter()
            linear(x, weight, bias)
            total += time.perf_counter() - started
        return total

    @torch.inference_mode()
    def repeated(self, times: int = 30) -> float:
        """Seconds if every product took what its shape takes again and again."""
        first = {shape: (weight, bias) for shape, weight, bias, _ in self.calls}
        seconds: dict[Shape, float] = {}
        for shape, (weight, bias) in first.items():
            x, seen = torch.randn(shape[:2]), []
            for _ in range(times):
                started = time.perf_counter()
                linear(x, weight, bias)
                seen.append(time.perf_counter() - started)
            seconds[shape] = median(seen[3:])
        return sum(seconds[shape] for shape, *_ in self.calls)


def measured(generator: Generator, requests: Sequence[Request], rows: int) -> tuple[float, ...]:
    """Share of decode time in products; their rates inside, in order and repeated (GFLOP/s)."""
    with Products() as products:
        _, found = timed(generator, requests, rows, rows)
    spent = sum(one.decoded.time_s for one in found if one.decoded is not None)
    seconds = products.inside(), products.in_order(), products.repeated()
    return seconds[0] / spent, *(products.work / one for one in seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", action="append")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", action="append", type=int, help="prompts of a decode call (1 and 16)")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    suite = load_suite("nano-gsm")
    print(
        "| decoder | batch | of decode time | GFLOP/s inside | in order, alone | repeated | inside / alone |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for method in asked.method or METHODS:
        generator = open_engine(method, Weights("nano")).generator
        canvas = generator.canvas(suite.canvas)
        requests = [Request(suite.prompt(doc), canvas) for _, doc in suite.docs(asked.documents)]
        for rows in asked.rows or (1, 16):
            timed(generator, requests[:rows], rows, rows)
            seen = [measured(generator, requests, rows) for _ in range(asked.rounds)]
            share, inside, order, repeated = (median(column) for column in zip(*seen, strict=True))
            ratio = median(one[1] / one[2] for one in seen)
            print(
                f"| {method} | {rows} | {share:.0%} | {inside:.1f} | {order:.1f} | {repeated:.1f} "
                f"| {ratio:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
