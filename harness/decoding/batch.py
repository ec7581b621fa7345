"""Several rows' requests as the inputs of one forward pass: ids, positions, mask and cache view."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.decoding.cache import KVCache, RaggedView, UniformView
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.rules import Span


class Batch:
    """Model inputs of one forward pass: ids, positions, mask and cache view."""

    def __init__(self, canvas: Canvas, requests: Mapping[int, Forward], cache: KVCache | None) -> None:
        self.canvas, self.requests, self.cache = canvas, requests, cache
        self.device = canvas.ids.device
        windows = {request.window for request in requests.values()}
        valid = {cache.length(row) if cache is not None else 0 for row in requests}
        self.uniform = len(windows) == 1 and len(valid) == 1 and (cache is None or len(requests) == len(canvas.rows))
        self.view: UniformView | RaggedView | None = None
        if self.uniform:
            self._slices(windows.pop(), valid.pop())
        else:
            self._gather()
        self._assume()

    def _assume(self) -> None:
        if not any(request.assume or request.level is not None for request in self.requests.values()):
            return
        # The uniform batch's ids are a view of the canvas, which nobody but the canvas may change.
        self.ids = self.ids.clone()
        for slot, request in enumerate(self.requests.values()):
            for position, token in (request.assume or {}).items():
                self.ids[slot, position - request.window[0]] = token
            if request.level is not None:
                self.ids[slot, 0] = request.level

    def _slices(self, window: Span, valid: int) -> None:
        start, stop = window
        rows = list(self.requests)
        ids = self.canvas.ids if len(rows) == len(self.canvas.rows) else self.canvas.ids[rows]
        self.ids = ids[:, start:stop]
        self.positions = slice(start, stop)
        keys = max(valid, stop) if self.cache is not None else stop
        first = 0 if self.cache is not None else start
        if self.cache is not None:
            self.view = UniformView(self.cache, window, keys)
        masks = [self._mask(row, start, stop, first, keys) for row in rows]
        if all(mask is None for mask in masks):
            self.mask = None
            return
        full = torch.ones(stop - start, keys - first, dtype=torch.bool, device=self.device)
        self.mask = torch.stack([full if mask is None else mask for mask in masks]).unsqueeze(1)

    def _gather(self) -> None:
        canvas, cache = self.canvas, self.cache
        rows = list(self.requests)
        longest = max(stop - start for start, stop in (r.window for r in self.requests.values()))
        spare = cache.capacity if cache is not None else canvas.ids.shape[1] - 1
        index = torch.full((len(rows), longest), spare, dtype=torch.long)
        keys = max(max(r.window[1], cache.length(row) if cache is not None else 0) for row, r in self.requests.items())
        width = keys if cache is not None else longest
        mask = torch.zeros(len(rows), longest, width, dtype=torch.bool, device=self.device)
        for slot, (row, request) in enumerate(self.requests.items()):
            start, stop = request.window
            index[slot, : stop - start] = torch.arange(start, stop)
            first = 0 if cache is not None else start
            last = max(stop, cache.length(row)) if cache is not None else stop
            allowed = self._mask(row, start, stop, first, last)
            mask[slot, : stop - start, : last - first] = True if allowed is None else allowed
            # A padding query must see something, or its softmax is 0/0.
            mask[slot, stop - start :, 0] = True
        index = index.to(self.device)
        chosen = torch.tensor(rows, device=self.device)
        self.ids = canvas.ids[chosen.unsqueeze(1), index.clamp(max=canvas.ids.shape[1] - 1)]
        self.positions = index
        self.mask = mask.unsqueeze(1)
        if cache is not None:
            self.view = RaggedView(cache, chosen, index, keys)

    def _mask(self, row: int, start: int, stop: int, first: int, last: int) -> Tensor | None:
        """[stop - start, last - first] of what queries may see, None if they see everything."""
        request = self.requests[row]
        if request.mask == "full":
            return None
        query = torch.arange(start, stop, device=self.device).unsqueeze(1)
        key = torch.arange(first, last, device=self.device)
        if request.mask == "causal":
            return None if stop - start == 1 and last == stop else key <= query
        size, prompt = request.block_size or 1, self.canvas.rows[row].prompt_length
        if _block(start, prompt, size) == _block(last - 1, prompt, size):
            return None
        query_block = torch.where(query < prompt, 0, (query - prompt) // size + 1)
        key_block = torch.where(key < prompt, 0, (key - prompt) // size + 1)
        return key_block <= query_block


def _block(position: int, prompt: int, size: int) -> int:
    return 0 if position < prompt else (position - prompt) // size + 1
