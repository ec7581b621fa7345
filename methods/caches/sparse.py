"""Sparse-dLLM (arXiv 2508.02558): inside a block only the stored rows that its queries attend to most are
kept.

The first pass of a block is full and stores nothing; the second is full, stores all rows and, in every layer,
ranks those outside the block: attention that the block's queries give them, mean over queries and heads,
maximum over ``kernel`` neighbours; the best ``keep_ratio`` of them stay. Later passes feed the block alone
and attend to it and to what stays. A block starts afresh. The states and what they feed follow
OpenMOSS/Sparse-dLLM 3d13cc0 (read); its ranking is in a file that could not be read and follows the paper,
where it leaves the reduction over heads open. With shifted predictions the window lies one position to the
left, as in methods.caches.window (there the block's first position is predicted from its own row). Memory is
not given back: the rows that are dropped are only not attended to, and the count of keys read takes in all
rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.layer import Layer
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row
from harness.decoding.rules import Span


class SparseCache(CachePolicy):
    """``keep_ratio``: share of the rows outside the block that stay; ``kernel``: odd width of the maximum
    over neighbours.
    """

    cached = True

    def __init__(self, shift: bool, keep_ratio: float, kernel: int) -> None:
        self.shift, self.keep_ratio, self.kernel = int(shift), keep_ratio, kernel
        self.index = 0
        self.kept: dict[int, Tensor] = {}

    def request(self, row: Row, step: Step) -> Forward:
        self.index = 0 if step.first else self.index + 1
        whole, window = (0, row.length), (step.block[0] - self.shift, step.block[1] - self.shift)
        if self.index == 0:
            return Forward(feed=whole, at=step.at, fresh=True)
        if self.index == 1:
            return Forward(feed=whole, at=step.at, keep=whole, fresh=True, layers=_Select(self, window))
        at = [position for position in step.at if window[0] <= position - self.shift < window[1]]
        return Forward(feed=window, at=at, keep=window, layers=_Reuse(self))


class _Select:
    """A full pass that chooses what stays."""

    uniform = True

    def __init__(self, policy: SparseCache, window: Span) -> None:
        self.policy, self.window = policy, window

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        query, key, value = layer.project(layer.norm(x), layer.positions)
        layer.keys[: len(x)], layer.values[: len(x)] = key, value
        out, weights = layer.attend_weighted(query, key, value)
        mass = weights[self.window[0] : self.window[1]].float().mean(0)
        self.policy.kept[layer.index] = most_attended(
            mass, self.window, self.policy.keep_ratio, self.policy.kernel
        )
        behind = x + out
        return behind + layer.feed_forward(behind)


class _Reuse:
    """A pass over the block that attends to it and to what was kept."""

    uniform = True

    def __init__(self, policy: SparseCache) -> None:
        self.policy = policy

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        query, key, value = layer.project(layer.norm(x), layer.positions)
        index = torch.tensor(list(layer.positions), device=x.device)
        layer.keys[index], layer.values[index] = key, value
        kept = self.policy.kept[layer.index]
        out = layer.attend(query, torch.cat([layer.keys[kept], key]), torch.cat([layer.values[kept], value]))
        behind = x + out
        return behind + layer.feed_forward(behind)


def most_attended(mass: Tensor, window: Span, keep_ratio: float, kernel: int) -> Tensor:
    """Ascending positions outside the window that stay, by attention mass [length]; of equal ones the lowest
    first.
    """
    outside = [position for position in range(len(mass)) if not window[0] <= position < window[1]]
    index = torch.tensor(outside, dtype=torch.long, device=mass.device)
    pooled = (
        F.max_pool1d(mass[index][None, None], kernel, stride=1, padding=kernel // 2)[0, 0].tolist()
        if outside
        else []
    )
    best = sorted(range(len(outside)), key=lambda k: -pooled[k])[: int(keep_ratio * len(outside))]
    return index[sorted(best)]
