"""Rows end to end in one call of flash-attn's variable-length kernel.

A sequence of that kernel is a stretch of queries that see the same keys: all of a row's queries, or one block
of a block-causal pass. Where all keys lie in the store without gaps, the store itself is passed, one page per
row; else the keys are gathered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from harness.decoding.attend import Segment
from harness.decoding.masks import reaches
from harness.decoding.part import Part

PAGE = 256
"""flash-attn takes pages whose size is a multiple of it."""


def stretches(part: Part) -> list[tuple[int, int]] | None:
    """(queries, end of the keys that they see, -1: all) of each run of fed positions that see the same keys;
    None: the mask is more than an end, or there are shadow rows.
    """
    if part.shadows:
        return None
    ends = reaches(part.request.mask, part.feed, part.prompt)
    return None if ends is None else [(len(list(run)), end) for end, run in groupby(ends)]


@dataclass(frozen=True)
class Stretch:
    """Queries [start, stop) of a pass, and the first ``keys`` of what ``segment`` sees."""

    segment: int
    queries: int
    keys: int


class Varlen:
    """``kernel``: flash_attn_varlen_func, or what computes the same."""

    def __init__(self, segments: Sequence[Segment], kernel: Callable[..., Any]) -> None:
        self.segments, self.kernel = segments, kernel
        self.device = segments[0].sight.device
        self.places = [_places(segment) for segment in segments]
        self.sequences = [
            Stretch(index, queries, len(places) if end < 0 else _count(places, end))
            for index, (segment, places) in enumerate(zip(segments, self.places, strict=True))
            for queries, end in stretches(segment.part) or []
        ]
        self.paged = all(
            segment.cache is not None
            and isinstance(places, range)
            and segment.cache.keys[0].shape[1] % PAGE == 0
            for segment, places in zip(segments, self.places, strict=True)
        )
        self.query_ends = self._ends([one.queries for one in self.sequences])
        self.key_ends = self._ends([one.keys for one in self.sequences])
        self.longest = (
            max(one.queries for one in self.sequences),
            max(one.keys for one in self.sequences),
        )
        self.table = self._table() if self.paged else None

    def _ends(self, lengths: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)

    def _table(self) -> Tensor:
        """[sequences, 1]: the page of each; a row's place in the store is one page."""
        cache = self.segments[0].cache
        assert cache is not None
        pages = [[cache.place(self.segments[one.segment].part.row)] for one in self.sequences]
        return torch.tensor(pages, dtype=torch.int32, device=self.device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        stored = [self._stored(segment, layer, key, value) for segment in self.segments]
        if self.paged:
            cache = self.segments[0].cache
            assert cache is not None
            keys, values = cache.keys[layer], cache.values[layer]
        else:
            keys, values = self._gathered(stored)
        found = self.kernel(
            query[0].transpose(0, 1),
            keys,
            values,
            self.query_ends,
            self.key_ends,
            *self.longest,
            block_table=self.table,
        )
        return found.transpose(0, 1)[None]

    def _stored(self, segment: Segment, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The row's keys and values by position, or, without a store, as they are fed."""
        if segment.cache is None:
            return tuple(part[0, :, segment.span].transpose(0, 1) for part in (key, value))  # pyright: ignore[reportReturnType]
        return segment.store(layer, key, value)

    def _gathered(self, stored: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        found = [], []
        for one in self.sequences:
            places = self.places[one.segment][: one.keys]
            if self.segments[one.segment].cache is None or isinstance(places, range):
                index: Any = slice(0, one.keys)
            else:
                index = torch.tensor(places, device=self.device)
            for part, side in zip(stored[one.segment], found, strict=True):
                side.append(part[index])
        return torch.cat(found[0]), torch.cat(found[1])


def _places(segment: Segment) -> Sequence[int]:
    """Positions that the segment sees, ascending; a range from 0 where the store holds them without gaps."""
    part = segment.part
    if segment.cache is None:
        return part.feed
    return range(part.last + 1) if part.gapless else sorted([*part.stored, *part.feed])


def _count(places: Sequence[int], end: int) -> int:
    return bisect_left(places, end)
