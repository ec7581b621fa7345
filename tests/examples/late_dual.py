"""A cache policy of its own: the dual cache, filled by a block's second pass instead of its first.

The first pass of a block writes the surest tokens; keys that are stored one pass later know them.
"""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row


class LateDual(CachePolicy):
    """``shift``: predictions are shifted, so that a block's logits come from one position to its left."""

    cached = True

    def __init__(self, shift: bool) -> None:
        self.shift = int(shift)
        self.passes = 0

    def request(self, row: Row, step: Step) -> Forward:
        self.passes = 1 if step.first else self.passes + 1
        whole = (0, row.length)
        if self.passes == 1:
            return Forward(feed=whole, at=step.at, fresh=True)
        if self.passes == 2:
            return Forward(feed=whole, at=step.at, keep=whole, fresh=True)
        window = (step.block[0] - self.shift, step.block[1] - self.shift)
        at = [position for position in step.at if window[0] <= position - self.shift < window[1]]
        return Forward(feed=window, at=at, keep=window)
