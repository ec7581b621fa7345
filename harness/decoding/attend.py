"""How one forward pass attends: over a rectangle, over spans at places of their own, or row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.cache import KVCache
from harness.decoding.masks import Full
from harness.decoding.part import Part
from harness.model.transformer import attention


def dense(part: Part, keys: Sequence[int], device: torch.device) -> Tensor | None:
    """[fed, keys] of what fed positions may see of ``keys`` (ascending), None if they see everything."""
    mask = part.request.mask
    if isinstance(mask, Full) or mask.trivial(
        (part.feed[0], part.feed[-1]), (keys[0], keys[-1]), part.prompt
    ):
        return None
    query, key = tensor(part.feed, device), tensor(keys, device)
    return mask.allowed(query.unsqueeze(1), key.unsqueeze(0), part.prompt)


def tensor(positions: Sequence[int], device: torch.device) -> Tensor:
    if isinstance(positions, range):
        return torch.arange(positions.start, positions.stop, device=device)
    return torch.tensor(list(positions), dtype=torch.long, device=device)


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
        rows = [part.row for part in parts]
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
        self.mask = self._mask(device)

    def _mask(self, device: torch.device) -> Tensor | None:
        part = self.part
        mask, visible = (
            dense(part, self.keys, device),
            torch.ones(len(self.keys), dtype=torch.bool, device=device),
        )
        if self.cache is not None and not part.gapless:
            visible = torch.zeros_like(visible)
            visible[tensor(part.feed, device)] = True
            visible[tensor(part.stored, device)] = True
            mask = visible.expand(self.fed, -1) if mask is None else mask & visible
        shadow = part.request.shadow
        if shadow is None:
            return mask
        # Canvas queries never see shadow rows; those see their own group, and of the canvas what their own
        # mask allows.
        canvas = (
            torch.ones(self.fed, len(self.keys), dtype=torch.bool, device=device) if mask is None else mask
        )
        own = (
            shadow.mask.allowed(
                tensor(shadow.at, device).unsqueeze(1), tensor(self.keys, device).unsqueeze(0), part.prompt
            )
            & visible
        )
        blind = torch.zeros(self.fed, part.shadows, dtype=torch.bool, device=device)
        group = torch.arange(part.shadows, device=device) * shadow.groups // part.shadows
        return torch.cat([torch.cat([canvas, blind], 1), torch.cat([own, group.unsqueeze(1) == group], 1)])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, heads, size, head_dim] of this row, from the packed pass' projections [1, heads, total,
        head_dim].
        """
        query, key, value = query[:, :, self.span], key[:, :, self.span], value[:, :, self.span]
        if self.cache is not None:
            keys, values = self.cache.keys[layer][self.part.row], self.cache.values[layer][self.part.row]
            keys[self.write] = key[0, :, : self.fed].transpose(0, 1)
            values[self.write] = value[0, :, : self.fed].transpose(0, 1)
            shadow_key, shadow_value = key[:, :, self.fed :], value[:, :, self.fed :]
            key, value = (
                keys[: len(self.keys)].transpose(0, 1)[None],
                values[: len(self.keys)].transpose(0, 1)[None],
            )
            if self.part.shadows:
                key, value = torch.cat([key, shadow_key], 2), torch.cat([value, shadow_value], 2)
        return attention(query, key, value, self.mask)


class Packed:
    """Rows end to end; attention row by row."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.cat([segment.attend(layer, query, key, value) for segment in self.segments], 2)
