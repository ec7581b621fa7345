"""Prefix and dual cache on a block loop (the d2Cache repository's form): a full pass opens a block, the
others feed a window of it.

The first pass of a block feeds and keeps the whole row and decodes like any other. Later passes feed the
block (dual) or everything from the block on (prefix), replace those rows in the store and attend to all of
it. For a model with shifted predictions the window lies one position to the left, so that the block's logits
are exact and the row in front of the block is renewed; the last row of the block (dual) or of the canvas
(prefix) keeps its value from the block's start. Not Fast-dLLM's own caches: those are ``fast_dllm``.
"""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row


class WindowCache(CachePolicy):
    """``to_end``: feed everything from the block on (prefix) instead of the block alone (dual)."""

    cached = True

    def __init__(self, shift: bool, to_end: bool) -> None:
        self.shift, self.to_end = int(shift), to_end

    def request(self, row: Row, step: Step) -> Forward:
        whole = (0, row.length)
        if step.first:
            return Forward(feed=whole, at=step.at, keep=whole, fresh=True)
        window = (step.block[0] - self.shift, (row.length if self.to_end else step.block[1]) - self.shift)
        at = [position for position in step.at if window[0] <= position - self.shift < window[1]]
        return Forward(feed=window, at=at, keep=window)
