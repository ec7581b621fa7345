"""How one forward pass attends: over a rectangle, over spans at places of their own, or row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.decoding.cache import KVCache
from harness.decoding.part import Part
from harness.decoding.sight import Sight, tensor
from harness.model.transformer import attention


class Rectangle:
    """One span for all rows: slices, no index tensors."""

    def __init__(self, cache: KVCache | None, feed: range, keys: int, mask: Tensor | None) -> None:
        self.cache, self.feed, self.keys, self.mask = cache, feed, keys, mask

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.cache is not None:
            all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
            all_keys[:, self.feed.start : self.feed.stop] = key.transpose(1, 2)
            all_values[:, self.feed.start : self.feed.stop] = value.transpose(1, 2)
            key, value = all_keys[:, : self.keys].transpose(1, 2), all_values[:, : self.keys].transpose(1, 2)
        return attention(query, key, value, self.mask)


class Staggered:
    """Spans of one length, each row's at its own ``positions`` [rows, fed]; a mask hides the keys that a row
    lacks.
    """

    def __init__(self, cache: KVCache, parts: Sequence[Part], device: torch.device) -> None:
        self.cache = cache
        rows = [cache.place(part.row) for part in parts]
        index = torch.tensor(rows, device=device)
        self.positions = torch.tensor([list(part.feed) for part in parts], device=device)
        self.write = index.unsqueeze(1), self.positions
        consecutive = rows == list(range(rows[0], rows[0] + len(rows)))
        self.rows = slice(rows[0], rows[0] + len(rows)) if consecutive else index
        ends = [part.last + 1 for part in parts]
        self.keys = max(ends)
        keys = torch.arange(self.keys, device=device)
        self.mask = (keys < torch.tensor(ends, device=device).unsqueeze(1))[:, None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.write], values[self.write] = key.transpose(1, 2), value.transpose(1, 2)
        key, value = (part[self.rows, : self.keys].transpose(1, 2) for part in (keys, values))
        return attention(query, key, value, self.mask)


class Kernel(Protocol):
    """An implementation of attention for one row at a time; ``mask`` is what its ``see`` made of a sight."""

    def see(self, sight: Sight) -> Any: ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor: ...


class Segment:
    """One row of a packed pass: where its queries lie, what it writes to the store and what it sees."""

    def __init__(self, part: Part, start: int, cache: KVCache | None, device: torch.device) -> None:
        self.part, self.cache, self.span = part, cache, slice(start, start + part.size)
        self.fed = len(part.feed)
        self.write = (
            slice(part.feed.start, part.feed.stop)
            if isinstance(part.feed, range)
            else tensor(part.feed, device)
        )
        self.keys: Sequence[int] = part.feed
        if cache is not None:
            self.keys = range(part.last + 1)
        self.sight = Sight(part, self.keys, cache is not None, device)

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write this row's part of the packed pass' projections [1, heads, total, head_dim] to the store;
        the row's keys and values there [capacity, kv_heads, head_dim].
        """
        assert self.cache is not None
        place = self.cache.place(self.part.row)
        keys, values = self.cache.keys[layer][place], self.cache.values[layer][place]
        fed = slice(self.span.start, self.span.start + self.fed)
        keys[self.write] = key[0, :, fed].transpose(0, 1)
        values[self.write] = value[0, :, fed].transpose(0, 1)
        return keys, values

    def seen(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, keys, head_dim] that this row attends to; what it feeds is
        written."""
        if self.cache is None:
            return key[:, :, self.span], value[:, :, self.span]
        keys, values = (
            part[: len(self.keys)].transpose(0, 1)[None] for part in self.store(layer, key, value)
        )
        if self.part.shadows:
            shadows = slice(self.span.start + self.fed, self.span.stop)
            keys = torch.cat([keys, key[:, :, shadows]], 2)
            values = torch.cat([values, value[:, :, shadows]], 2)
        return keys, values


class Packed:
    """Rows end to end; attention row by row."""

    def __init__(self, segments: Sequence[Segment], kernel: Kernel) -> None:
        self.kernel = kernel
        self.segments = [(segment, kernel.see(segment.sight)) for segment in segments]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = []
        for segment, mask in self.segments:
            keys, values = segment.seen(layer, key, value)
            found.append(self.kernel.attend(query[:, :, segment.span], keys, values, mask))
        return torch.cat(found, 2)
