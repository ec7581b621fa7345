"""A choosing rule: which of a block's proposed tokens a step writes. One object serves one row for one call,
so it may remember.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.rules.view import View


class Rule:
    """The defaults suit a rule that ranks the block's positions; ``choose`` is what each rule writes
    itself.
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        self.row, self.spec, self.config = row, spec, config

    @property
    def block_length(self) -> int | None:
        """Block size; None: the whole canvas as one block."""
        return self.config.block_length

    def begin(self, block: Span) -> None:
        """Told before the first step of a block."""

    def wants(self, live: list[int], first: bool) -> list[int]:
        """Positions whose logits a step needs: at least ``live``, the open ones of the block; ``first``: the
        block's first step.
        """
        return live

    def resize(self, view: View, block: Span) -> Span:
        """The block's true extent, after its first forward pass."""
        return block

    def passes(self, live: int) -> int:
        """Forward passes to make before looking again whether the block, with ``live`` positions open, is
        complete.
        """
        return 1

    def confidence(self, view: View) -> Tensor:
        """How sure each position's token is, [len(view.at)]; what cache policies are told."""
        return view.confidence(self.config.alg)

    def choose(self, view: View, score: Tensor) -> list[int]:
        """Indices into ``view.at``, all of ``view.live``; ``score`` is the confidence times the certainty
        density, if there is one.
        """
        raise NotImplementedError

    def finished(self, block: Span) -> bool:
        """Whether decoding ends with this block, now complete."""
        return False


def ranked(score: Tensor, among: list[int]) -> list[int]:
    """Indices from the best score down; of equal ones the lowest position first."""
    values = score.tolist()
    return sorted(among, key=lambda k: -values[k])


def at_least(score: Tensor, limit: float, among: list[int]) -> list[int]:
    """Indices whose score reaches the limit, compared in the score's own precision."""
    reached = (score >= limit).tolist()
    return [k for k in among if reached[k]]


def above(score: Tensor, limit: float, among: list[int]) -> list[int]:
    """Indices whose score lies above the limit, compared in the score's own precision."""
    passed = (score > limit).tolist()
    return [k for k in among if passed[k]]


def even_quota(size: int, steps: int, step: int) -> int:
    """How many of ``size`` masks LLaDA's schedule reveals in ``step`` of ``steps``: even shares, the first
    ones one more.
    """
    return size // steps + (1 if step < size % steps else 0)
