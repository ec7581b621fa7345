"""d3LLM's delayed cache (arXiv 2601.07568): finished blocks are stored some steps after they were completed,
prompt and blocks in order.

A step feeds everything behind what is stored, unfinished blocks and suffix included. While a finished block
waits for its turn, and every ``refresh`` steps, the whole row is fed and what is stored is made anew, up to
the start of the latest block that waits. As hao-ai-lab/d3LLM e5bfcac does it (read). Departures: nothing
behind an unfinished block is ever stored, and a block inside its delay holds up its successors on every
family (on Dream's there a later block may take one along); with shifted predictions the first position behind
the store is predicted from the stored position before it (there from its own).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span


class DelayedCache:
    """The store of one row; ``spans``: prompt and blocks; ``delay`` and ``refresh`` in steps, None: never."""

    def __init__(self, row: Row, spans: Sequence[Span], delay: int, refresh: int | None) -> None:
        self.row, self.spans, self.delay, self.refresh = row, spans, delay, refresh
        self.step = 0
        self.stored = 0
        self.since: dict[Span, int] = {}

    def request(self, at: Sequence[int]) -> Forward:
        """The next step's forward pass."""
        self.step += 1
        ready, waiting = self._ready()
        due = self.refresh is not None and self.step % self.refresh == 0
        if self.stored and (waiting or due):
            self.stored = max(ready, waiting[-1][0] if waiting else ready)
            return Forward(feed=(0, self.row.length), at=at, keep=(0, self.stored), fresh=True)
        start, self.stored = self.stored, ready
        return Forward(feed=(start, self.row.length), at=at, keep=(start, ready) if ready > start else None)

    def _ready(self) -> tuple[int, list[Span]]:
        """End of what may be stored now, and the finished blocks right behind it that have to wait."""
        end, waiting = 0, []
        for span in self.spans:
            if self.row.masked(*span):
                break
            done = self.since.setdefault(span, self.step - 1)
            if not waiting and (span[1] <= self.stored or self.step - done >= self.delay):
                end = span[1]
            else:
                waiting.append(span)
        return end, waiting
