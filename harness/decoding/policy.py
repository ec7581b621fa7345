"""Cache policies: what a block decoder feeds and keeps at each step, as an object beside the decoder.

A decoder says which block it works on and at which positions it wants logits; the policy turns that into the
forward request. One policy object serves one row for one call, so it may remember what it did.

    policy = make_policy(config)
    step = Step(block=(start, stop), first=True, at=row.masked(start, stop))
    request = policy.request(row, step)          # request.at may lack positions that are not fed at this step
    logits = yield request
    ...                                          # choose and commit
    policy.committed(row, step, written)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span


@dataclass(frozen=True)
class Step:
    """One step of a block decoder, before its forward pass.

    block: positions [start, stop) it works on. first: no forward was made for this block yet. at: positions
    whose logits the choosing rule wants, ascending. live: positions of the block that are unwritten as the
    step begins.
    """

    block: Span
    first: bool
    at: Sequence[int]
    live: Sequence[int]


class CachePolicy:
    """Without a cache: the whole row is fed at every step."""

    cached = False

    def request(self, row: Row, step: Step) -> Forward:
        """The forward pass of a step. Positions of ``step.at`` that get no logits are left out of its
        ``at``.
        """
        return Forward(feed=(0, row.length), at=step.at)

    def committed(
        self, row: Row, step: Step, written: Sequence[int], confidence: Tensor | None = None
    ) -> None:
        """Told after the step's tokens are on the canvas: ``written`` positions; ``confidence`` [len(at)] as
        the rule scored them.
        """
