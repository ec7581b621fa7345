"""Key/value cache: write at positions, keep a prefix, replace in place.

Each row's cache is valid for positions [0, length(row)). A forward pass writes the keys of its window
into the buffers at their own positions, so nothing is concatenated or copied; ``store`` decides which
of them stay valid afterwards. Exact (block-causal) and approximate (Fast-dLLM) uses share this class.
What-if passes (trials) set their keys aside; one of them may be adopted, the others are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.rules import Span
from harness.model.spec import ModelSpec


@dataclass
class Trial:
    """What one what-if pass would store: copies [layers, 2, span, kv_heads, head_dim] and the last hidden state."""

    store: Span
    content: Tensor
    edge: Tensor | None


class KVCache:
    """Buffers [rows, capacity, kv_heads, head_dim] per layer, keys after RoPE."""

    def __init__(self, spec: ModelSpec, rows: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        # One extra column swallows the writes of padding queries in ragged batches.
        shape = (rows, capacity + 1, spec.num_kv_heads, spec.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.num_layers)]
        self.capacity = capacity
        self._valid = [0] * rows
        self._edge: list[tuple[int, Tensor] | None] = [None] * rows
        self._trials: list[list[Trial]] = [[] for _ in range(rows)]

    def length(self, row: int) -> int:
        """Number of leading positions of the row whose keys and values are kept."""
        return self._valid[row]

    def keep(self, row: int, length: int) -> None:
        """Forget everything from position ``length`` on (0 clears the row)."""
        if length > self._valid[row]:
            raise ValueError(f"row {row} has {self._valid[row]} cached positions, cannot keep {length}")
        if length != self._valid[row]:
            self._valid[row], self._edge[row] = length, None

    def edge(self, row: int, position: int) -> Tensor | None:
        """Final hidden state of ``position`` if it is the last one stored (the Dream shift needs it)."""
        kept = self._edge[row]
        return kept[1] if kept is not None and kept[0] == position else None

    def check(self, row: int, window: Span, store: Span | None) -> None:
        """ValueError for a window that leaves a hole, or overwrites kept keys without storing them."""
        start, stop = window
        valid = self._valid[row]
        if start > valid:
            raise ValueError(f"window {window} leaves a hole behind the {valid} cached positions")
        if store is not None and not (start <= store[0] <= min(valid, store[1]) and store[1] <= stop):
            raise ValueError(f"store {store} must lie in the window {window} and touch the {valid} cached positions")
        overlap = min(stop, valid)
        if start < overlap and (store is None or store[0] > start or store[1] < overlap):
            raise ValueError(f"window {window} overwrites cached positions up to {overlap}: store them or keep a shorter prefix")

    def mark(self, row: int, store: Span, edge: Tensor | None) -> None:
        """Make the stored span valid; ``edge`` is the hidden state of its last position."""
        if store[1] > store[0]:
            self._valid[row] = max(self._valid[row], store[1])
            self._edge[row] = None if edge is None else (store[1] - 1, edge)

    def set_aside(self, row: int, store: Span, edge: Tensor | None) -> None:
        """Copy the span that the pass just wrote, as the row's next trial; the cache itself stays as it was."""
        span = slice(*store)
        layers = [torch.stack([keys[row, span], values[row, span]]) for keys, values in zip(self.keys, self.values, strict=True)]
        self._trials[row].append(Trial(store, torch.stack(layers), edge))

    def settle_trials(self, row: int, adopt: int | None, go_on: bool) -> None:
        """Before a pass: keep one trial's span if asked to; trials end with an adoption or a pass that is none.

        Raises ValueError for a trial that was not run.
        """
        trials = self._trials[row]
        if adopt is not None:
            if not 0 <= adopt < len(trials):
                raise ValueError(f"row {row} has {len(trials)} trials, cannot adopt number {adopt}")
            chosen, span = trials[adopt], slice(*trials[adopt].store)
            for keys, values, content in zip(self.keys, self.values, chosen.content, strict=True):
                keys[row, span], values[row, span] = content[0], content[1]
            self.mark(row, chosen.store, chosen.edge)
        if adopt is not None or not go_on:
            trials.clear()


class UniformView:
    """One window for all rows: slices, no index tensors."""

    def __init__(self, cache: KVCache, window: Span, keys: int) -> None:
        self.cache, self.window, self.keys = cache, window, keys

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self.window
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        all_keys[:, start:stop] = key.transpose(1, 2)
        all_values[:, start:stop] = value.transpose(1, 2)
        return all_keys[:, : self.keys].transpose(1, 2), all_values[:, : self.keys].transpose(1, 2)


class RaggedView:
    """Rows with windows of their own: scattered writes, padding queries into the spare column."""

    def __init__(self, cache: KVCache, rows: Tensor, positions: Tensor, keys: int) -> None:
        self.cache, self.rows, self.positions, self.keys = cache, rows, positions, keys

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.cache.keys[layer], self.cache.values[layer]
        index = (self.rows.unsqueeze(1), self.positions)
        all_keys[index] = key.transpose(1, 2)
        all_values[index] = value.transpose(1, 2)
        return all_keys[self.rows, : self.keys].transpose(1, 2), all_values[self.rows, : self.keys].transpose(1, 2)
