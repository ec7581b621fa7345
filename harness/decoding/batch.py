"""Several rows' requests as the inputs of one forward pass, without padding.

Rows that feed the same span behind the same stored prefix share one rectangular batch. All others are packed
end to end into one sequence: the linear layers see every token once, and attention runs row by row over views
of the store, so nothing is padded or copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward, positions_of
from harness.decoding.masks import Full
from harness.model.transformer import Transformer, attention


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
    keep = [] if request.keep is None else positions_of(request.keep)
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


class Batch:
    """Inputs of one forward pass over ``parts``, and each part's share of what comes out."""

    def __init__(
        self, canvas: Canvas, model: Transformer, parts: Sequence[Part], cache: KVCache | None
    ) -> None:
        self.canvas, self.parts = canvas, parts
        self.cache = cache if any(part.request.cached for part in parts) else None
        self.longest = (
            max(
                max(part.feed[-1], *(part.request.shadow.at if part.request.shadow else [0]))
                for part in parts
            )
            + 1
        )
        self.uniform = self._alike()
        self.attend = self._rectangle() if self.uniform else self._packed()
        self._assume(model)

    def hidden(self, hidden: Tensor) -> dict[int, Tensor]:
        """Hidden states [size, hidden] of each row, from those of the whole batch."""
        if self.uniform:
            return {part.row: hidden[slot] for slot, part in enumerate(self.parts)}
        sizes = [part.size for part in self.parts]
        return dict(zip((part.row for part in self.parts), hidden[0].split(sizes), strict=True))

    def _alike(self) -> bool:
        first = self.parts[0]
        plain = all(
            isinstance(part.feed, range)
            and part.feed == first.feed
            and part.request.cached == first.request.cached
            and not part.shadows
            and part.stored == first.stored
            for part in self.parts
        )
        # The store's view of a rectangle is a slice over all of its rows.
        return plain and first.gapless and (self.cache is None or len(self.parts) == len(self.cache.valid))

    def _rectangle(self) -> Rectangle:
        first = self.parts[0]
        assert isinstance(first.feed, range)
        rows = [part.row for part in self.parts]
        ids = self.canvas.ids if len(rows) == len(self.canvas.rows) else self.canvas.ids[rows]
        self.ids, self.positions = (
            ids[:, first.feed.start : first.feed.stop],
            slice(first.feed.start, first.feed.stop),
        )
        keys = _span(first, self.cache is not None)
        masks = [_dense(part, keys, ids.device) for part in self.parts]
        mask = None
        if any(one is not None for one in masks):
            whole = torch.ones(len(first.feed), len(keys), dtype=torch.bool, device=ids.device)
            mask = torch.stack([whole if one is None else one for one in masks]).unsqueeze(1)
        return Rectangle(self.cache, first.feed, keys.stop, mask)

    def _packed(self) -> Packed:
        device = self.canvas.ids.device
        pieces, places, segments = [], [], []
        start = 0
        for part in self.parts:
            where = list(part.feed)
            pieces.append(self.canvas.ids[part.row, torch.tensor(where, device=device)])
            if part.request.shadow is not None:
                shadow = part.request.shadow
                ids = shadow.ids if shadow.ids is not None else [self.canvas.rules.fill_id] * part.shadows
                pieces.append(torch.tensor(ids, device=device))
                where += list(shadow.at)
            places += where
            segments.append(Segment(part, start, self.cache if part.request.cached else None, device))
            start += part.size
        self.ids, self.positions = (
            torch.cat(pieces).unsqueeze(0),
            torch.tensor(places, device=device).unsqueeze(0),
        )
        return Packed(segments)

    def _assume(self, model: Transformer) -> None:
        requests = [part.request for part in self.parts]
        if any(request.assume or request.level is not None for request in requests):
            # A rectangle's ids are a view of the canvas, which nobody but the canvas may change.
            self.ids = self.ids.clone()
        soft: list[tuple[int, int, Tensor]] = []
        start = 0
        for slot, part in enumerate(self.parts):
            line, first = (slot, 0) if self.uniform else (0, start)
            start += part.size
            for position, token in (part.request.assume or {}).items():
                self.ids[line, first + part.feed.index(position)] = token
            if part.request.level is not None:
                self.ids[line, first] = part.request.level
            for position, mixture in part.request.soft.items():
                table = model.model.embed_tokens.weight
                mixed = mixture.weights.to(table.device, table.dtype) @ table[mixture.ids.to(table.device)]
                soft.append((line, first + part.feed.index(position), mixed))
        if soft:
            self.ids = model.model.embed_tokens(self.ids)
            for line, place, mixed in soft:
                self.ids[line, place] = mixed


def _span(part: Part, cached: bool) -> range:
    """Key positions of a rectangle."""
    assert isinstance(part.feed, range)
    return range(part.last + 1) if cached else part.feed


def _dense(part: Part, keys: Sequence[int], device: torch.device) -> Tensor | None:
    """[fed, keys] of what fed positions may see of ``keys``, None if they see everything."""
    mask = part.request.mask
    if isinstance(mask, Full) or mask.trivial(
        (part.feed[0], part.feed[-1]), (min(keys), max(keys)), part.prompt
    ):
        return None
    query, key = _tensor(part.feed, device), _tensor(keys, device)
    return mask.allowed(query.unsqueeze(1), key.unsqueeze(0), part.prompt)


def _tensor(positions: Sequence[int], device: torch.device) -> Tensor:
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


class Segment:
    """One row of a packed pass: where its queries lie, what it writes to the store and what it sees."""

    def __init__(self, part: Part, start: int, cache: KVCache | None, device: torch.device) -> None:
        self.part, self.cache, self.span = part, cache, slice(start, start + part.size)
        self.fed = len(part.feed)
        self.write = (
            slice(part.feed.start, part.feed.stop)
            if isinstance(part.feed, range)
            else _tensor(part.feed, device)
        )
        self.keys: Sequence[int] = part.feed
        if cache is not None:
            self.keys = range(part.last + 1)
        self.mask = self._mask(device)

    def _mask(self, device: torch.device) -> Tensor | None:
        part = self.part
        mask, visible = (
            _dense(part, self.keys, device),
            torch.ones(len(self.keys), dtype=torch.bool, device=device),
        )
        if self.cache is not None and not part.gapless:
            visible = torch.zeros_like(visible)
            visible[_tensor(part.feed, device)] = True
            visible[_tensor(part.stored, device)] = True
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
                _tensor(shadow.at, device).unsqueeze(1), _tensor(self.keys, device).unsqueeze(0), part.prompt
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
