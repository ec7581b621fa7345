"""Several rows' requests as the inputs of one forward pass, without padding.

Rows that feed the same span behind the same stored prefix share one rectangular batch. Rows that feed spans
of one length at places of their own, and see all that is stored, share one too; there a mask hides the keys
that shorter rows lack. All others are packed end to end into one sequence: the linear layers see every token
once, and attention runs row by row over views of the store, so nothing is padded or copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.decoding.attend import Rectangle, Segment, Staggered
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.kernels import Implementation
from harness.decoding.part import Part
from harness.decoding.sight import dense
from harness.model.transformer import Attend, Transformer

# Longest span for which rows at different places share one call of attention; longer ones pay more for keys
# that are only masked. At 8 it pays on nano with 16 rows (docs/log.md); where it stops to was not measured.
STAGGERED = 8


class Batch:
    """Inputs of one forward pass over ``parts``, and each part's share of what comes out."""

    def __init__(
        self,
        canvas: Canvas,
        model: Transformer,
        parts: Sequence[Part],
        cache: KVCache | None,
        kernel: Implementation,
    ) -> None:
        self.canvas, self.parts = canvas, parts
        self.kernel = kernel.serving(parts)
        canvas.meter.kernels.add(self.kernel.name)
        self.cache = cache if any(part.request.cached for part in parts) else None
        self.longest = (
            max(
                max(part.feed[-1], *(part.request.shadow.at if part.request.shadow else [0]))
                for part in parts
            )
            + 1
        )
        level = self.kernel.rectangles and self._level()
        alike = level and self._alike()
        self.uniform = alike or (level and self._open())
        self.attend = self._rectangle() if alike else self._staggered() if self.uniform else self._packed()
        self._assume(model)

    def hidden(self, hidden: Tensor) -> dict[int, Tensor]:
        """Hidden states [size, hidden] of each row, from those of the whole batch."""
        if self.uniform:
            return {part.row: hidden[slot] for slot, part in enumerate(self.parts)}
        sizes = [part.size for part in self.parts]
        return dict(zip((part.row for part in self.parts), hidden[0].split(sizes), strict=True))

    def _level(self) -> bool:
        """Whether every row feeds one span, all of the same length, and sees a stretch without gaps."""
        first = self.parts[0]
        return all(
            isinstance(part.feed, range)
            and len(part.feed) == len(first.feed)
            and part.request.cached == first.request.cached
            and not part.shadows
            and part.gapless
            for part in self.parts
        )

    def _alike(self) -> bool:
        first = self.parts[0]
        same = all(part.feed == first.feed and part.stored == first.stored for part in self.parts)
        # The store's view of a rectangle is a slice over all of its places.
        return same and (
            self.cache is None
            or [self.cache.place(part.row) for part in self.parts] == list(range(self.cache.places))
        )

    def _open(self) -> bool:
        """Whether short spans at places of their own see all there is: one call of attention then costs less
        than one per row.
        """
        if self.cache is None or len(self.parts[0].feed) > STAGGERED or len(self.parts) == 1:
            return False
        ends = [((part.feed[0], part.feed[-1]), (0, part.last), part.prompt) for part in self.parts]
        return all(part.request.mask.trivial(*end) for part, end in zip(self.parts, ends, strict=True))

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
        masks = [dense(part, keys, ids.device) for part in self.parts]
        mask = masks[0]
        if len(masks) == 1 and mask is not None:
            mask = mask[None, None]
        elif any(one is not None for one in masks):
            whole = torch.ones(len(first.feed), len(keys), dtype=torch.bool, device=ids.device)
            mask = torch.stack([whole if one is None else one for one in masks]).unsqueeze(1)
        return Rectangle(self.cache, first.feed, keys.stop, mask)

    def _staggered(self) -> Staggered:
        assert self.cache is not None
        attend = Staggered(self.cache, self.parts, self.canvas.ids.device)
        rows = torch.tensor([[part.row] for part in self.parts], device=self.canvas.ids.device)
        self.ids, self.positions = self.canvas.ids[rows, attend.positions], attend.positions
        return attend

    def _packed(self) -> Attend:
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
        return self.kernel.packed(segments)

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
