"""Masked-diffusion training with the Dream shift: corruption, weights and loss.

Every state that a decoder can meet is trained: any canvas length up to the full one with an
eos-padded tail, any subset of masks (full-sequence orders), and clean blocks, one half-finished block
and a fully masked suffix (block-wise orders).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from harness.model.transformer import Transformer
from methods.training.data.batches import Batch, Stream, cross_entropy_at
from methods.training.loop.loop import generator_for
from methods.training.precision import fast_products


@dataclass(frozen=True)
class Corruption:
    """Shares of the corruption kinds; the rest of the rows is masked uniformly at random.

    ``block_wise``: clean blocks, one block masked at a random rate, all masked after it;
    ``prefix``: all masked after a random cut. ``full_canvas`` is the share of batches padded with eos
    to ``canvas`` new tokens (the others: to the next multiple of 8 or a little more). ``tail`` weighs
    the loss on padding after the first eos; ``geometric`` is the decay of the context weights.
    """

    block_wise: float = 0.45
    prefix: float = 0.25
    full_canvas: float = 0.6
    canvas: int = 48
    tail: float = 0.2
    geometric: float = 0.3


@dataclass(frozen=True)
class Noisy:
    """``clean`` and ``ids`` [rows, length]; ``masked``, ``inside`` boolean; ``weights`` [rows, length]."""

    clean: np.ndarray
    ids: np.ndarray
    masked: np.ndarray
    inside: np.ndarray
    weights: np.ndarray


def lay_out(stream: Stream, step: int, options: Corruption) -> tuple[Batch, np.ndarray]:
    """One batch with its tails: rows padded with eos, and the canvas end [rows] of each."""
    rng = generator_for(stream.seed, step, 1)
    batch = stream.batch(step)
    if rng.random() < options.full_canvas:
        limits = batch.prompts + options.canvas
    else:
        new = -(-(batch.ends - batch.prompts) // 8) * 8 + 8 * rng.integers(0, 2, len(batch.ends))
        limits = batch.prompts + np.minimum(new, options.canvas)
    length = int(-(-limits.max() // 8) * 8)
    rows = max(1, min(len(limits), stream.tokens // length))
    ids = np.full((rows, length), stream.eos, np.int64)
    width = min(length, batch.ids.shape[1])
    ids[:, :width] = batch.ids[:rows, :width]
    return Batch(ids, batch.prompts[:rows], batch.ends[:rows], batch.rows[:rows]), limits[:rows]


def corrupt(stream: Stream, step: int, mask_id: int, options: Corruption) -> Noisy:
    """Lay out and mask the batch of ``step``; at least one token of every row is masked."""
    rng = generator_for(stream.seed, step, 2)
    batch, limits = lay_out(stream, step, options)
    rows, length = batch.ids.shape
    column = np.arange(length)[None]
    offset = column - batch.prompts[:, None]
    inside = (offset >= 0) & (column < limits[:, None])
    rate = _rates(rng, batch, offset, column, options)
    masked = (rng.random((rows, length)) < rate) & inside
    for row in np.flatnonzero(~masked.any(1)):
        masked[row, rng.integers(batch.prompts[row], batch.ends[row])] = True
    weights = context_weights(masked, limits, options.geometric) * np.where(
        column >= batch.ends[:, None], options.tail, 1.0
    )
    return Noisy(batch.ids, np.where(masked, mask_id, batch.ids), masked, inside, weights * masked)


def _rates(
    rng: np.random.Generator, batch: Batch, offset: np.ndarray, column: np.ndarray, options: Corruption
) -> np.ndarray:
    """Mask probability [rows, length] of each place, by the row's kind of corruption."""
    rows = len(batch.prompts)
    kind, level, tail_level = rng.random((rows, 1)), rng.random((rows, 1)), rng.random((rows, 1))
    # Decoders that may fill any place settle the tail early, so its rate varies on its own.
    uniform = np.where((column >= batch.ends[:, None]) & (tail_level < 0.7), tail_level, level)
    cut = (rng.random((rows, 1)) * (batch.ends - batch.prompts + 1)[:, None]).astype(np.int64)
    prefix = (offset >= cut).astype(float)
    size = rng.choice([8, 8, 8, 16, 32], (rows, 1))
    start = cut // size * size
    block = np.where(offset < start, 0.0, np.where(offset < start + size, level, 1.0))
    return np.where(
        kind < options.block_wise,
        block,
        np.where(kind < options.block_wise + options.prefix, prefix, uniform),
    )


@lru_cache(maxsize=64)
def _decay(length: int, geometric: float) -> np.ndarray:
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None])
    return np.where(distance > 0, 0.5 * geometric * (1 - geometric) ** np.maximum(distance - 1, 0), 0.0)


def context_weights(masked: np.ndarray, limits: np.ndarray, geometric: float) -> np.ndarray:
    """Context-adaptive weights (Dream's CART): a masked token counts by the clean tokens near it."""
    visible = ~masked & (np.arange(masked.shape[1])[None] < limits[:, None])
    return visible @ _decay(masked.shape[1], geometric)


def diffusion_loss(model: Transformer, noisy: Noisy) -> Tensor:
    """Weighted mean cross-entropy of the masked tokens; logits at p are read for token p + 1."""
    arrays = (
        noisy.ids,
        noisy.clean,
        visible_columns(noisy),
        np.flatnonzero(noisy.masked),
        noisy.weights[noisy.masked],
    )
    device = model.lm_head.weight.device
    ids, clean, visible, target, weights = (torch.from_numpy(array).to(device) for array in arrays)
    with fast_products():
        hidden = model.hidden(ids, mask=visible[:, None, None, :])
        losses = cross_entropy_at(model, hidden, target - 1, clean.flatten()[target])
    return (losses * weights.float()).sum() / weights.float().sum()


def visible_columns(noisy: Noisy) -> np.ndarray:
    """Columns up to the row's canvas end, [rows, length]; what lies behind is only batch padding."""
    return noisy.inside[:, ::-1].cumsum(1)[:, ::-1] > 0
