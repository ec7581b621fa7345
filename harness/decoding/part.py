"""One row's share of a forward pass, with its positions spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward, positions_of


@dataclass(frozen=True)
class Part:
    """One row's share of a pass, resolved: positions fed, kept and stored before, and its request.

    stored: positions whose stored keys may be attended to (fed ones left out), ascending.
    """

    row: int
    request: Forward
    feed: range | list[int]
    keep: range | list[int]
    stored: Sequence[int]
    prompt: int

    @property
    def shadows(self) -> int:
        return len(self.request.shadow.at) if self.request.shadow is not None else 0

    @property
    def size(self) -> int:
        """Query rows: what is fed and its shadows."""
        return len(self.feed) + self.shadows

    @property
    def last(self) -> int:
        """Last key position on the canvas."""
        return max(self.feed[-1], self.stored[-1] if len(self.stored) else 0)

    @property
    def gapless(self) -> bool:
        """Whether what is stored and what is fed are all positions up to the last (or, without a store, one
        stretch).
        """
        return (
            len(self.feed) + len(self.stored) == self.last + 1
            if self.request.cached
            else not len(self.stored)
        )

    @property
    def keys(self) -> int:
        """Key positions attended to."""
        return len(self.feed) + len(self.stored) + self.shadows


def resolve(canvas: Canvas, row: int, request: Forward, cache: KVCache | None) -> Part:
    """A request with its positions spelled out; ValueError for positions that do not ascend."""
    feed = positions_of(request.feed)
    keep = range(0) if request.keep is None else positions_of(request.keep)
    stored: Sequence[int] = []
    if cache is not None and request.cached:
        valid = cache.valid[row]
        seen = range(canvas.rows[row].length) if request.see is None else positions_of(request.see)
        if isinstance(feed, range) and not valid.others and isinstance(seen, range) and seen.start == 0:
            top = min(valid.prefix, seen.stop)
            stored = (
                range(min(top, feed.start))
                if feed.stop >= top
                else [*range(feed.start), *range(feed.stop, top)]
            )
        else:
            fed = set(feed)
            stored = [position for position in valid.among(seen) if position not in fed]
    return Part(row, request, feed, keep, stored, canvas.rows[row].prompt_length)
