"""d2Cache (arXiv 2509.23094): each step feeds the rows that are about to be written and those that attention
depends on most.

One store of all rows; the first pass is full, none after it ever is. At the end of a step the rows of the
next one are chosen: the ``current_k`` unwritten positions of highest certainty (confidence times the density
of what is known around them), the rows written just now, and, of all others, those that hold the first
``rollout_p`` of the attention rollout's mass. Gaps of less than ``inflate_w`` between chosen rows are filled.
Attention rollout: the head-averaged attention of every layer, plus the identity, normalised by row and
multiplied.

As the authors' code does it (Kamichanw/d2Cache, 72feb60), and unlike the paper: the confidences are those of
the first step for ever; the search region is rounded to multiples of the number of positions that were open
when the step began, not of the block length; and for models with shifted predictions the rows that give the
chosen positions' logits are fed, one to their left. A position that was not fed has no logits and is never
chosen (there it would be id 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.layer import Layer
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row
from methods.density import CertaintyDensity


class D2Cache(CachePolicy):
    """See the module; ``sigma``: width of the density in positions; ``shift``: predictions are shifted."""

    cached = True

    def __init__(self, shift: bool, rollout_p: float, current_k: int, sigma: float, inflate_w: int) -> None:
        self.shift, self.rollout_p, self.current_k, self.sigma, self.inflate_w = (
            int(shift),
            rollout_p,
            current_k,
            sigma,
            inflate_w,
        )
        self.feed: list[int] = []
        self.certain: Tensor | None = None
        self.density: CertaintyDensity | None = None
        self.rollout = Rollout(0)

    def request(self, row: Row, step: Step) -> Forward:
        self.rollout = Rollout(row.length)
        if self.certain is None:
            whole = (0, row.length)
            return Forward(
                feed=whole,
                at=range(row.prompt_length, row.length),
                keep=whole,
                fresh=True,
                layers=self.rollout,
            )
        fed = set(self.feed)
        at = [position for position in step.at if position - self.shift in fed]
        return Forward(feed=self.feed, at=at, keep=self.feed, layers=self.rollout)

    def committed(
        self, row: Row, step: Step, written: Sequence[int], confidence: Tensor | None = None
    ) -> None:
        if self.certain is None:
            assert confidence is not None
            self.certain = confidence.double().cpu()
            self.density = CertaintyDensity(row.length - row.prompt_length, self.sigma)
        selected = self._selected(row, step)
        first = row.prompt_length
        rows = {
            position - self.shift for position in selected if not (self.shift and position == first)
        } | set(written)
        rows |= self._depended_on(rows)
        if self.shift:
            # The prompt's last row gives the first position's logits: it competes for the rollout's mass, but
            # is fed for them alone.
            rows = rows | {first - 1} if first in selected else rows - {first - 1}
        self.feed = _filled(sorted(rows), self.inflate_w)

    def _selected(self, row: Row, step: Step) -> list[int]:
        """Unwritten positions to feed next."""
        assert self.certain is not None
        assert self.density is not None
        start = row.prompt_length
        known = [row.written(position) for position in range(start, row.length)]
        score = self.certain * self.density.at(known)
        live = [position - start for position in step.live]
        score[live] += score.max()
        rest = [place for place in range(len(known)) if not known[place]]
        end = rest[self.current_k - 1] if len(rest) >= self.current_k else len(known) - 1
        end = (end // len(live) + 1) * len(live) - 1
        values = score.tolist()
        open_places = [place for place in rest if live[0] <= place <= end]
        return sorted(
            start + place for place in sorted(open_places, key=lambda place: -values[place])[: self.current_k]
        )

    def _depended_on(self, rows: set[int]) -> set[int]:
        """Of the other rows, the first by attention rollout whose shares sum up to ``rollout_p``, at least
        one.
        """
        importance = self.rollout.importance()
        others = [position for position in range(len(importance)) if position not in rows]
        values = importance[others]
        share = (values / (values.sum() + 1e-9)).tolist()
        order = sorted(range(len(others)), key=lambda k: -share[k])
        taken, mass = set(), 0.0
        for place, k in enumerate(order):
            mass += share[k]
            if place and mass > self.rollout_p:
                break
            taken.add(others[k])
        return taken


def _filled(rows: list[int], width: int) -> list[int]:
    """Ascending rows with all rows between neighbours at most ``width`` apart."""
    filled = rows[:1]
    for row in rows[1:]:
        filled += range(filled[-1] + 1, row + 1) if row - filled[-1] <= width else [row]
    return filled


class Rollout:
    """Runs the fed rows against the whole store and folds each layer's attention."""

    uniform = True

    def __init__(self, length: int) -> None:
        self.length = length
        self.product: Tensor | None = None

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        query, key, value = layer.project(layer.norm(x), layer.positions)
        index = torch.tensor(list(layer.positions), device=x.device)
        layer.keys[index], layer.values[index] = key, value
        out, weights = layer.attend_weighted(query, layer.keys[: self.length], layer.values[: self.length])
        step = torch.eye(self.length, device=x.device)
        step[index] = weights.float()
        step = step + torch.eye(self.length, device=x.device)
        step = step / step.sum(-1, keepdim=True)
        self.product = step if self.product is None else step @ self.product
        behind = x + out
        return behind + layer.feed_forward(behind)

    def importance(self) -> Tensor:
        """Mass [length] that all rows put on each."""
        assert self.product is not None
        return self.product.sum(0).cpu()
