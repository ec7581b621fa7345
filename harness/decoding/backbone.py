"""The backbone: the only way to run the model, and the place where forwards are counted.

It hides which checkpoint runs, the Dream shift (``logits[k]`` predicts the token *at* ``at[k]``),
position ids, padding and caching. A request speaks row coordinates; see harness.decoding.canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.decoding.cache import KVCache, RaggedView, UniformView
from harness.decoding.canvas import Canvas
from harness.model import ModelSpec, Transformer

MaskKind = Literal["full", "causal", "block_causal"]
Span = tuple[int, int]

# Far above any real decoder (LoPA with 8 branches: 9 per token at worst), low enough to end an endless loop.
FORWARD_LIMIT = 40


@dataclass(frozen=True)
class Forward:
    """One row's part of a forward pass.

    window: positions [start, stop) fed to the model.
    at: positions whose token is to be predicted; logits are computed there and nowhere else.
    store: positions whose keys/values are kept in the cache afterwards (None: nothing is kept).
    mask: "full" (bidirectional), "causal", or "block_causal" (prompt = block 0, then blocks of
        ``block_size``; a position sees its own and earlier blocks).
    fresh: drop the row's cache first (a refresh pass).
    cached: read and write the cache; false runs the window on its own.
    assume: tokens taken for granted in this pass alone ("what if") at window positions behind the prompt;
        nothing is written.
    trial: set the stored keys/values aside instead of keeping them, so that several what-if passes start
        from the same cache; the row's trials are numbered from 0.
    adopt: before this pass, keep what that trial had set aside and forget the other trials.
    level: id of the noise level, told to a uniform-state model in the place of the row's first token; such ids are no text.
    """

    window: Span
    at: Sequence[int]
    store: Span | None = None
    mask: MaskKind = "full"
    block_size: int | None = None
    fresh: bool = False
    cached: bool = True
    assume: Mapping[int, int] | None = None
    trial: bool = False
    adopt: int | None = None
    level: int | None = None


@dataclass
class Watch:
    """Forward passes seen by a hook on the model: ``shapes`` holds the [rows, positions] of each, padding included."""

    shapes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.shapes)


class TooManyForwards(RuntimeError):
    """A decoder that does not come to an end."""


class Backbone:
    """A loaded model on a device. ``forward`` and ``forward_rows`` count everything they run."""

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        self.spec: ModelSpec = model.spec
        self.device, self.dtype = device, dtype
        self._model = model

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Count the forward passes of the model itself, whoever starts them (the audit's second opinion)."""
        seen = Watch()

        def count(_: object, inputs: tuple[Tensor, ...]) -> None:
            seen.shapes.append((inputs[0].shape[0], inputs[0].shape[1]))

        # On the innermost layer, because calling a module's forward() directly passes its own hooks by.
        handle = self._model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(count)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield seen
        finally:
            handle.remove()

    def score(self, ids: Tensor, causal: bool = False) -> Tensor:
        """Raw, unshifted logits [batch, length, vocab] for likelihoods; not part of any decode call."""
        length = ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril() if causal else None
        return self._model(ids, mask)

    def new_cache(self, canvas: Canvas) -> KVCache:
        """An empty cache for every row of the canvas."""
        return KVCache(self.spec, len(canvas.rows), canvas.ids.shape[1], self.dtype, self.device)

    def forward(self, canvas: Canvas, request: Forward, cache: KVCache | None = None, row: int = 0) -> Tensor:
        """Aligned logits [len(at), vocab] of one row."""
        return self.forward_rows(canvas, {row: request}, cache)[row]

    @torch.inference_mode()
    def forward_rows(self, canvas: Canvas, requests: Mapping[int, Forward], cache: KVCache | None = None) -> dict[int, Tensor]:
        """One forward pass for several rows: aligned logits [len(at), vocab] for each.

        Raises ValueError for a window outside the row, a cache misuse, an assumed token outside the window,
        or logits that the window cannot give (the shift needs the position before).
        """
        meter = canvas.meter
        started = meter.now()
        for row, request in requests.items():
            self._check(canvas, row, request, cache)
            if canvas.rows[row].nfe >= FORWARD_LIMIT * canvas.new_tokens:
                raise TooManyForwards(f"row {row} used {canvas.rows[row].nfe} forwards for {canvas.new_tokens} tokens")
        batch = _Batch(canvas, requests, cache if any(r.cached for r in requests.values()) else None)
        ready = meter.now()
        hidden = self._model.hidden(batch.ids, batch.positions, batch.mask, batch.view)
        meter.spent("model", ready)
        chosen = {}
        for slot, (row, request) in enumerate(requests.items()):
            chosen[row] = self._select(hidden[slot], row, request, cache)
            self._settle(canvas, hidden[slot], row, request, cache)
        ready = meter.now()
        logits = {row: self._model.head(rows) if len(rows) else rows.new_empty(0, self.spec.vocab_size) for row, rows in chosen.items()}
        done = meter.now()
        meter.calls += 1
        meter.spent("model", ready, done)
        meter.spent("forward", started, done)
        return logits

    def _check(self, canvas: Canvas, row: int, request: Forward, cache: KVCache | None) -> None:
        start, stop = request.window
        if not 0 <= start < stop <= canvas.rows[row].length:
            raise ValueError(f"window {request.window} is empty or outside row {row} of length {canvas.rows[row].length}")
        if request.mask == "block_causal" and not request.block_size:
            raise ValueError("a block_causal forward needs block_size")
        first = max(start, canvas.rows[row].prompt_length)
        for position, token in (request.assume or {}).items():
            if not (first <= position < stop and 0 <= token < self.spec.vocab_size):
                raise ValueError(f"assumed token {token} at {position}: only positions [{first}, {stop}) and known ids can be assumed")
        if request.level is not None and not (start == 0 and self.spec.data_tokens <= request.level < self.spec.vocab_size):
            raise ValueError(f"noise level {request.level}: this model has {self.spec.noise_levels}, and the window must start at 0")
        if cache is None or not request.cached:
            if request.store is not None or request.trial or request.adopt is not None:
                raise ValueError("store, trial and adopt need a cache")
            return
        if request.fresh:
            cache.keep(row, 0)
        cache.settle_trials(row, request.adopt, go_on=request.trial)
        cache.check(row, request.window, request.store)
        if request.trial:
            # What is set aside cannot protect positions that are already kept.
            cache.check(row, request.window, None)

    def _select(self, hidden: Tensor, row: int, request: Forward, cache: KVCache | None) -> Tensor:
        start, stop = request.window
        shift = 1 if self.spec.shift else 0
        # Position 0 has no predecessor; Dream itself predicts it from its own place.
        sources = [max(position - shift, 0) for position in request.at]
        if sources and min(sources) >= start and max(sources) < stop:
            first = sources[0] - start
            if sources[-1] - sources[0] == len(sources) - 1:
                return hidden[first : first + len(sources)]
            return hidden[torch.tensor(sources, device=hidden.device) - start]
        parts = []
        for position in sources:
            inside = start <= position < stop
            source = hidden[position - start] if inside else cache.edge(row, position) if cache is not None else None
            if source is None:
                raise ValueError(f"window {request.window} gives no logits for position {position + shift}")
            parts.append(source)
        return torch.stack(parts) if parts else hidden[:0]

    def _settle(self, canvas: Canvas, hidden: Tensor, row: int, request: Forward, cache: KVCache | None) -> None:
        start, stop = request.window
        cached = cache.length(row) if cache is not None and request.cached else 0
        stored = 0
        if cache is not None and request.cached and (request.store is not None or request.trial):
            store = request.store or (start, start)
            stored = store[1] - store[0]
            edge = hidden[store[1] - 1 - start] if self.spec.shift and stored else None
            keep = cache.set_aside if request.trial else cache.mark
            keep(row, store, edge)
        canvas.meter.record(row, stop - start, cached, stored, max(cached, stop))


class _Batch:
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
