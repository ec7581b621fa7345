"""The store of keys and values: write at positions, keep any of them, replace in place.

Every position has its own place in the buffers, so nothing is concatenated or copied. A pass writes the keys
of what it feeds; ``keep`` decides which of them stay valid afterwards. Exact (block-causal) and approximate
(prefix, dual, scattered) uses share this class. What-if passes (trials) set their keys aside; one of them may
be adopted, the others are forgotten.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.decoding.forward import spans_of
from harness.decoding.rules import Span
from harness.model.spec import ModelSpec


@dataclass
class Trial:
    """What one what-if pass would store: copies [layers, 2, span, kv_heads, head_dim] and the last hidden
    state.
    """

    kept: Span
    content: Tensor
    edge: Tensor | None


@dataclass
class Valid:
    """Which positions of one row are stored: all before ``prefix``, and ``others`` behind it.

    ``edges``: final hidden state of the last position of each stored stretch (a model with shifted
    predictions needs it).
    """

    prefix: int = 0
    others: set[int] = field(default_factory=set)
    edges: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.prefix + len(self.others)

    def __contains__(self, position: int) -> bool:
        return position < self.prefix or position in self.others

    def add(self, start: int, stop: int) -> None:
        """Take positions [start, stop) in."""
        if start <= self.prefix:
            self.prefix = max(self.prefix, stop)
            self.others = {position for position in self.others if position >= self.prefix}
        else:
            self.others.update(range(start, stop))
        while self.prefix in self.others:
            self.others.remove(self.prefix)
            self.prefix += 1

    def among(self, positions: Sequence[int]) -> list[int]:
        """Those of ``positions`` that are stored."""
        if isinstance(positions, range) and not self.others:
            return list(range(positions.start, min(positions.stop, self.prefix)))
        return [position for position in positions if position in self]


class KVCache:
    """Buffers [places, capacity, kv_heads, head_dim] per layer, keys after RoPE.

    A row has the place of its number; where there are fewer ``places`` than rows, it takes one (``admit``)
    and gives it back (``leave``). ``buffers`` (keys, values) may be those of an earlier cache of at least
    this size, whose addresses stay the same.
    """

    def __init__(
        self,
        spec: ModelSpec,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        buffers: tuple[list[Tensor], list[Tensor]] | None = None,
        places: int | None = None,
    ) -> None:
        self.places = rows if places is None else places
        shape = (self.places, capacity, spec.num_kv_heads, spec.head_dim)
        if buffers is None:
            buffers = tuple(
                [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
                for _ in range(2)
            )  # pyright: ignore[reportAssignmentType]
        assert buffers is not None
        whole = len(buffers[0][0]) == self.places
        self.keys, self.values = (
            side if whole else [buffer[: self.places] for buffer in side] for side in buffers
        )
        self.capacity = capacity
        self.valid = [Valid() for _ in range(rows)]
        self._trials: list[list[Trial]] = [[] for _ in range(rows)]
        # Of rows that share places: who has which, and those that are free.
        self._taken: dict[int, int] | None = None if self.places == rows else {}
        self._free = list(range(self.places))

    def place(self, row: int) -> int:
        """Where in the buffers a row lies."""
        return row if self._taken is None else self._taken[row]

    def admit(self, row: int) -> None:
        """Give a row the first free place."""
        if self._taken is not None:
            self._taken[row] = self._free.pop(0)

    def leave(self, row: int) -> None:
        """Forget a row that is done; its place is free."""
        if self._taken is not None:
            bisect.insort(self._free, self._taken.pop(row))
            self._trials[row].clear()
            self.clear(row)

    def length(self, row: int) -> int:
        """Number of positions of the row whose keys and values are kept."""
        return len(self.valid[row])

    def clear(self, row: int) -> None:
        """Forget everything of a row."""
        self.valid[row] = Valid()

    def edge(self, row: int, position: int) -> Tensor | None:
        """Final hidden state of ``position`` if it is the last one of a stored stretch."""
        return self.valid[row].edges.get(position)

    def check(self, row: int, feed: Sequence[int], keep: Sequence[int], see: Sequence[int] | None) -> None:
        """ValueError for a pass that overwrites stored keys without keeping them, keeps what is not fed, or
        leaves a hole unseen.
        """
        valid = self.valid[row]
        stray, lost, hole = (
            _faults_of_spans(valid.prefix, feed, keep)
            if isinstance(feed, range) and isinstance(keep, range) and not valid.others
            else _faults(valid, feed, keep)
        )
        if stray is not None:
            raise ValueError(f"keep names position {stray}, which is not fed: feed it or leave it out")
        if lost is not None:
            raise ValueError(
                f"the pass overwrites the stored position {lost} without keeping it: name it in keep, or "
                "ask for fresh"
            )
        if see is None and hole is not None:
            raise ValueError(
                f"position {hole} is neither fed nor stored: feed it, or name in see what may be attended to"
            )

    def mark(self, row: int, kept: Sequence[int], edge: dict[int, Tensor]) -> None:
        """Make kept positions valid; ``edge``: hidden states of the last positions of kept stretches."""
        valid = self.valid[row]
        for start, stop in spans_of(kept):
            valid.add(start, stop)
        valid.edges.update(edge)

    def set_aside(self, row: int, kept: Span, edge: Tensor | None) -> None:
        """Copy the span that the pass just wrote, as the row's next trial; the store itself stays as it
        was.
        """
        span, place = slice(*kept), self.place(row)
        layers = zip(self.keys, self.values, strict=True)
        content = torch.stack([part[place, span] for layer in layers for part in layer])
        self._trials[row].append(Trial(kept, content.unflatten(0, (-1, 2)), edge))

    def settle_trials(self, row: int, adopt: int | None, go_on: bool) -> None:
        """Before a pass: keep one trial's span if asked to; trials end with an adoption or a pass that is
        none.

        Raises ValueError for a trial that was not run.
        """
        trials = self._trials[row]
        if adopt is not None:
            if not 0 <= adopt < len(trials):
                raise ValueError(f"row {row} has {len(trials)} trials, cannot adopt number {adopt}")
            chosen, span, place = trials[adopt], slice(*trials[adopt].kept), self.place(row)
            for keys, values, content in zip(self.keys, self.values, chosen.content, strict=True):
                keys[place, span], values[place, span] = content[0], content[1]
            self.mark(
                row, range(*chosen.kept), {} if chosen.edge is None else {chosen.kept[1] - 1: chosen.edge}
            )
        if adopt is not None or not go_on:
            trials.clear()


Faults = tuple[int | None, int | None, int | None]
"""The first position that is kept and not fed, that is overwritten and not kept, that is neither fed nor
stored before the last fed one.
"""


def _faults(valid: Valid, feed: Sequence[int], keep: Sequence[int]) -> Faults:
    fed, kept = set(feed), set(keep)
    behind = range(valid.prefix, feed[-1])
    return (
        next((position for position in keep if position not in fed), None),
        next((position for position in valid.among(feed) if position not in kept), None),
        next((position for position in behind if position not in fed and position not in valid), None),
    )


def _faults_of_spans(prefix: int, feed: range, keep: range) -> Faults:
    """The same where what is fed, kept and stored are three stretches, whatever their lengths: asked at every
    pass.
    """
    stray = lost = None
    if keep and not (feed.start <= keep.start and keep.stop <= feed.stop):
        stray = keep.start if keep.start < feed.start else max(feed.stop, keep.start)
    end = min(feed.stop, prefix)
    if feed.start < end:
        after = max(keep.stop, feed.start) if keep and keep.start <= feed.start else feed.start
        lost = after if after < end else None
    return stray, lost, prefix if prefix < feed.start else None
