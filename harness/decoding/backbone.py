"""The backbone: the only way to run the model, and the place where forwards are counted.

It hides which checkpoint runs, the Dream shift (``logits[k]`` predicts the token *at* ``at[k]``),
position ids, padding and caching. A request speaks row coordinates; see harness.decoding.canvas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.decoding.batch import Batch
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.model import ModelSpec, Transformer

# Far above any real decoder (LoPA with 8 branches: 9 per token at worst), low enough to end an endless loop.
FORWARD_LIMIT = 40


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
            if canvas.rows[row].nfe >= FORWARD_LIMIT * canvas.rules.new_tokens:
                raise TooManyForwards(f"row {row} used {canvas.rows[row].nfe} forwards for {canvas.rules.new_tokens} tokens")
        batch = Batch(canvas, requests, cache if any(r.cached for r in requests.values()) else None)
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
