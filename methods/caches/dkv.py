"""dKV-Cache (arXiv 2505.15781): the keys of written tokens are stored one step late and not computed again
until the next refresh.

Two forms, as in the authors' code (horseee/dKV-Cache, 49a76fc). Shifted (Dream): a row is stored once the
token that it predicts is known; what is stored is not fed. Blocks (LLaDA): each block starts afresh, and rows
known two steps ago are not fed. Every ``steps`` steps the store is dropped and everything fed; 0: never.
``prefill`` stores the prompt alone and never refreshes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row

Shift = Literal["un", "un_right"]


class ShiftedDKV(CachePolicy):
    """dKV-Cache for models with shifted predictions.

    rule: which rows may be stored: ``un`` those whose predicted token is known, ``un_right`` those that are
    known themselves too. The authors' third rule, ``right``, leaves masked positions without logits and is
    not offered.
    """

    cached = True

    def __init__(self, steps: int, rule: Shift = "un", prefill: bool = False) -> None:
        self.steps, self.rule, self.prefill = steps, rule, prefill
        self.index = 0
        self.stored: set[int] = set()
        self.next: set[int] | None = None

    def request(self, row: Row, step: Step) -> Forward:
        if self.next is None:
            self.next = {position for position in range(row.length - 1) if row.written(position + 1)}
        fresh = self.index == 0 or (not self.prefill and self.steps > 0 and self.index % self.steps == 0)
        if fresh:
            self.stored = set()
        self.index += 1
        feed = [position for position in range(row.length) if position not in self.stored]
        keep = [position for position in feed if position in self.next]
        return Forward(feed=feed, at=step.at, keep=keep, fresh=fresh)

    def committed(
        self, row: Row, step: Step, written: Sequence[int], confidence: Tensor | None = None
    ) -> None:
        assert self.next is not None
        self.stored = self.next
        if self.prefill:
            return
        known = [row.written(position) for position in range(row.length)]
        after = [*known[1:], known[0]]
        if self.rule == "un_right":
            after = [one and other for one, other in zip(known, after, strict=True)]
            after[-1] = after[-2]
        self.next = {position for position in range(row.length) if after[position]}


class BlockDKV(CachePolicy):
    """dKV-Cache for models that predict in place: ``steps`` counted within each block."""

    cached = True

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.index = 0
        self.known: list[set[int]] = []

    def request(self, row: Row, step: Step) -> Forward:
        if step.first:
            self.index, self.known = 0, []
        self.known.append({position for position in range(row.length) if row.written(position)})
        index, now = self.index, self.known[-1]
        self.index += 1
        if index < 2 or (self.steps and index % self.steps == 0):
            keep = sorted(now) if index else None
            return Forward(feed=(0, row.length), at=step.at, keep=keep, fresh=True)
        stored = self.known[-2]
        feed = [position for position in range(row.length) if position not in stored]
        return Forward(feed=feed, at=step.at, keep=[position for position in feed if position in now])
