"""The backbone: the only way to run the model, and the place where forwards are counted.

It hides which checkpoint runs, the Dream shift (``logits[k]`` predicts the token *at* ``at[k]``),
position ids, padding and caching. A request speaks row coordinates; see harness.decoding.canvas.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.decoding.batch import Batch
from harness.decoding.cache import KVCache
from harness.decoding.candidates import Candidates, answers
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward, positions_of, spans_of
from harness.decoding.kernels import Implementation, Sdpa
from harness.decoding.layer import LayerCount, products_of, run_layers
from harness.decoding.masks import FULL, own_blocks
from harness.decoding.part import Part, resolve
from harness.decoding.row import Row
from harness.model import ModelSpec
from harness.model.transformer import Transformer

# Far above any real decoder (LoPA with 8 branches: 9 per token at worst), low enough to end an endless loop.
FORWARD_LIMIT = 40


@dataclass
class Watch:
    """Forward passes seen by a hook on the model: ``shapes`` holds the [rows, positions] of each, padding
    included.
    """

    shapes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.shapes)


class TooManyForwards(RuntimeError):
    """A decoder that does not come to an end."""


def _counting(watches: list[Watch]) -> Callable[..., None]:
    def count(_: object, inputs: tuple[Tensor, ...]) -> None:
        for seen in watches:
            seen.shapes.append((inputs[0].shape[0], inputs[0].shape[1]))

    return count


class Backbone:
    """A loaded model on a device. ``forward`` and ``forward_rows`` count everything they run.

    products: multiply-adds per position of the layers' linear maps. ``kernel``: how attention is computed.
    """

    def __init__(
        self,
        model: Transformer,
        device: torch.device,
        dtype: torch.dtype,
        kernel: Implementation | None = None,
    ) -> None:
        self.spec: ModelSpec = model.spec
        self.device, self.dtype = device, dtype
        self.kernel: Implementation = kernel if kernel is not None else Sdpa()
        self._model = model
        self.products = products_of(model.model.layers)
        self._buffers: tuple[list[Tensor], list[Tensor]] | None = None
        self._cache: weakref.ref[KVCache] | None = None
        self._watches: list[Watch] = []
        # Once, on the innermost layer: calling a module's forward() directly passes its own hooks by.
        innermost: torch.nn.Module = model.model.layers[0].self_attn.q_proj  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
        weakref.finalize(self, innermost.register_forward_pre_hook(_counting(self._watches)).remove)

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Count the forward passes of the model itself, whoever starts them (the audit's second opinion)."""
        seen = Watch()
        self._watches.append(seen)
        try:
            yield seen
        finally:
            self._watches.remove(seen)

    def score(
        self,
        ids: Tensor,
        causal: bool = False,
        at: tuple[Tensor, Tensor] | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Raw, unshifted logits [batch, length, vocab] for likelihoods; not part of any decode call.

        ``at``: (rows, positions) to multiply with the head, giving [chosen, vocab]. ``seen``: keys that
        count, [batch, 1, 1, length]; padding on the right needs it unless the pass is causal.
        """
        length = ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril() if causal else None
        if seen is not None:
            mask = seen.to(ids.device) if mask is None else mask & seen.to(ids.device)
        hidden = self._model.hidden(ids, mask=mask)
        return self._model.head(hidden if at is None else hidden[at])

    def new_cache(self, canvas: Canvas) -> KVCache:
        """An empty store for the rows of the canvas that are decoded at once. Its buffers are reused from
        call to call, at the same addresses.
        """
        rows, places, capacity = len(canvas.rows), canvas.live, canvas.ids.shape[1]
        if self._cache is not None and self._cache() is not None:
            return KVCache(self.spec, rows, capacity, self.dtype, self.device, places=places)
        held = self._buffers[0][0].shape if self._buffers else (0, 0)
        if self._buffers is None or held[0] < places or held[1] < capacity:
            size = max(held[1], self.kernel.page, 1 << (capacity - 1).bit_length())
            whole = KVCache(self.spec, max(held[0], places), size, self.dtype, self.device)
            self._buffers = whole.keys, whole.values
        cache = KVCache(self.spec, rows, capacity, self.dtype, self.device, self._buffers, places)
        self._cache = weakref.ref(cache)
        return cache

    def forward(self, canvas: Canvas, request: Forward, cache: KVCache | None = None, row: int = 0) -> Tensor:
        """Aligned logits [len(at), vocab] of one row."""
        return self.forward_rows(canvas, {row: request}, cache)[row]

    @torch.inference_mode()
    def answer_rows(
        self, canvas: Canvas, requests: Mapping[int, Forward], cache: KVCache | None = None
    ) -> dict[int, Tensor | Candidates]:
        """One forward pass for several rows: what each request wants, logits or candidates."""
        logits = self.forward_rows(canvas, requests, cache)
        if all(request.want is None for request in requests.values()):
            return dict(logits)
        started = canvas.meter.now()
        found = answers(logits, {row: request.want for row, request in requests.items()}, self.spec.mask_id)
        canvas.meter.spent("forward", started)
        return found

    @torch.inference_mode()
    def forward_rows(
        self, canvas: Canvas, requests: Mapping[int, Forward], cache: KVCache | None = None
    ) -> dict[int, Tensor]:
        """One forward pass for several rows: aligned logits [len(at), vocab] for each.

        Raises ValueError for positions outside the row, misuse of the store, an assumed token that is not
        fed, or logits that what is fed cannot give (the shift needs the position before).
        """
        meter = canvas.meter
        started = meter.now()
        parts = [self._part(canvas, row, request, cache) for row, request in requests.items()]
        plain = [part for part in parts if part.request.layers is None]
        layered = [part for part in parts if part.request.layers is not None]
        hidden, counts = self._run(canvas, plain, layered, cache)
        chosen = {}
        for part in parts:
            chosen[part.row] = self._select(hidden[part.row], part, canvas.rows[part.row].length, cache)
            self._settle(canvas, hidden[part.row], part, cache, counts.get(part.row))
        ready = meter.now()
        logits = self._head(chosen)
        done = meter.now()
        meter.spent("model", ready, done)
        meter.spent("forward", started, done)
        return logits

    def _run(
        self, canvas: Canvas, plain: Sequence[Part], layered: Sequence[Part], cache: KVCache | None
    ) -> tuple[dict[int, Tensor], dict[int, LayerCount]]:
        """Hidden states of every row; rows whose policy works inside the layers run one by one."""
        meter, hidden, counts = canvas.meter, {}, {}
        if plain:
            batch = Batch(canvas, self._model, plain, cache, self.kernel)
            ready = meter.now()
            hidden |= batch.hidden(
                self._model.hidden(batch.ids, batch.positions, None, batch.attend, batch.longest)
            )
            meter.spent("model", ready)
            meter.calls += 1
        if layered:
            canvas.meter.kernels.add("sdpa")
        for part in layered:
            assert cache is not None
            ids = canvas.ids[part.row, torch.tensor(list(part.feed), device=canvas.ids.device)]
            ready = meter.now()
            hidden[part.row], counts[part.row] = run_layers(
                self._model, ids, part.feed, part.request.layers, cache, part.row
            )
            meter.spent("model", ready)
            meter.calls += 1
        return hidden, counts

    def _head(self, chosen: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Logits of all rows by one product with the head."""
        sizes = [len(rows) for rows in chosen.values()]
        if not any(sizes):
            return {row: rows.new_empty(0, self.spec.vocab_size) for row, rows in chosen.items()}
        if len(sizes) == 1:
            return {row: self._model.head(rows) for row, rows in chosen.items()}
        together = self._model.head(torch.cat(list(chosen.values())))
        return dict(zip(chosen, together.split(sizes), strict=True))

    def _part(self, canvas: Canvas, index: int, request: Forward, cache: KVCache | None) -> Part:
        """The request with its positions resolved, and the store made ready for it. ValueError for what
        cannot be done.
        """
        row = canvas.rows[index]
        if request.mask == FULL and self.spec.attention == "block_causal":
            request = request.but(mask=own_blocks(self.spec, row.prompt_length))
        if row.nfe >= FORWARD_LIMIT * canvas.rules.new_tokens:
            raise TooManyForwards(f"row {index} used {row.nfe} forwards for {canvas.rules.new_tokens} tokens")
        self._check(row, request, cache)
        if cache is not None and request.cached:
            if request.fresh:
                cache.clear(index)
            cache.settle_trials(index, request.adopt, go_on=request.trial)
        part = resolve(canvas, index, request, cache)
        if cache is not None and request.cached and request.layers is None:
            # What is set aside cannot protect positions that are already kept.
            cache.check(
                index,
                part.feed,
                range(0) if request.trial else part.keep,
                None if request.see is None else part.stored,
            )
        return part

    def _check(self, row: Row, request: Forward, cache: KVCache | None) -> None:
        feed = positions_of(request.feed)
        if not len(feed) or feed[0] < 0 or feed[-1] >= row.length:
            raise ValueError(
                f"feed {request.feed} is empty or outside row {row.index} of length {row.length}"
            )
        changes = bool(request.assume or request.soft)
        fed = set(feed) if changes and not isinstance(feed, range) else feed
        for position, token in (request.assume or {}).items():
            known = position in fed and position >= row.prompt_length
            if not (known and 0 <= token < self.spec.vocab_size):
                raise ValueError(
                    f"assumed token {token} at {position}: only fed positions behind the prompt and known "
                    "ids can be assumed"
                )
        soft = request.soft
        if stray := [place for place in soft if place not in fed or place < row.prompt_length]:
            raise ValueError(
                f"soft input at {stray[0]}: only fed positions behind the prompt can be mixtures"
            )
        if request.shadow is not None and any(
            not 0 <= position < row.length for position in request.shadow.at
        ):
            raise ValueError(f"shadow rows stand for positions of the row, [0, {row.length})")
        if request.level is not None and not (
            feed[0] == 0 and self.spec.data_tokens <= request.level < self.spec.vocab_size
        ):
            raise ValueError(
                f"noise level {request.level}: this model has {self.spec.noise_levels}, and feed must "
                "start at 0"
            )
        stores = (
            request.keep is not None or request.see is not None or request.trial or request.adopt is not None
        )
        if (cache is None or not request.cached) and (stores or request.layers is not None):
            raise ValueError(
                "keep, see, layers, trial and adopt need a store: return true from uses_cache and leave "
                "cached as it is"
            )
        if request.layers is not None and self.spec.attention == "block_causal":
            raise ValueError(
                "a policy inside the layers attends to everything; this model attends block by block: choose "
                "another cache"
            )
        if request.layers is not None and (
            request.shadow or request.soft or request.assume or request.trial or request.mask != FULL
        ):
            raise ValueError(
                "a policy inside the layers works on the canvas as it is: no shadow, soft, assume, trial "
                "or mask"
            )
        if request.trial and request.keep is not None and not isinstance(positions_of(request.keep), range):
            raise ValueError("a trial sets one span aside: keep must be a span")

    def _select(self, hidden: Tensor, part: Part, length: int, cache: KVCache | None) -> Tensor:
        shift = 1 if self.spec.shift else 0
        # Position 0 has no predecessor; Dream itself predicts it from its own place. Shadow rows follow the
        # row as if it went on.
        sources = [max(position - shift, 0) for position in part.request.at]
        feed = part.feed
        if sources and isinstance(feed, range) and feed.start <= min(sources) and max(sources) < feed.stop:
            first = sources[0] - feed.start
            if sources[-1] - sources[0] == len(sources) - 1:
                return hidden[first : first + len(sources)]
            slots = torch.tensor([source - feed.start for source in sources], device=hidden.device)
            return hidden.index_select(0, slots)
        slots = {position: slot for slot, position in enumerate(feed)}
        slots |= {length + k: len(feed) + k for k in range(part.shadows)}
        found = []
        for position in sources:
            source = (
                hidden[slots[position]]
                if position in slots
                else cache.edge(part.row, position)
                if cache is not None
                else None
            )
            if source is None:
                raise ValueError(f"what is fed gives no logits for position {position + shift}")
            found.append(source)
        return torch.stack(found) if found else hidden[:0]

    def _settle(
        self, canvas: Canvas, hidden: Tensor, part: Part, cache: KVCache | None, count: LayerCount | None
    ) -> None:
        request, row = part.request, part.row
        before = cache.length(row) if cache is not None and request.cached else 0
        before = before if request.see is None else len(part.stored)
        if cache is not None and request.cached and (len(part.keep) or request.trial):
            self._store(hidden, part, cache)
        meter = canvas.meter
        if count is None:
            meter.record(
                row,
                (part.size, before, len(part.keep)),
                part.keys,
                spans_of(part.feed),
                part.size * self.products,
            )
            return
        rows = [len(positions) for positions in count.queries]
        queries = [spans_of(positions) for positions in count.queries]
        queries = queries[0] if part.request.layers.uniform else queries
        meter.record(
            row,
            (rows[-1], before, rows[-1]),
            part.keys,
            queries,
            count.products,
            rows[0],
            sum(rows) / len(rows),
        )

    def _store(self, hidden: Tensor, part: Part, cache: KVCache) -> None:
        keep = part.keep
        edges = {}
        if self.spec.shift:
            slots = (
                {position: slot for slot, position in enumerate(part.feed)}
                if not isinstance(part.feed, range)
                else None
            )
            for _, stop in spans_of(keep):
                edges[stop - 1] = hidden[stop - 1 - part.feed[0] if slots is None else slots[stop - 1]]
        if part.request.trial:
            span = (keep[0], keep[-1] + 1) if len(keep) else (part.feed[0], part.feed[0])
            cache.set_aside(part.row, span, edges.get(span[1] - 1))
        else:
            cache.mark(part.row, keep, edges)
