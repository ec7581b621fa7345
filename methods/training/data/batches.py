"""Batches of nano's training: fixed shapes, keyed by (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.model.transformer import Transformer
from methods.training.data.corpus import Pool
from methods.training.loop.loop import generator_for


@dataclass(frozen=True)
class Batch:
    """``ids`` [rows, length]; ``prompts``, ``ends`` [rows]: prompt length and length with eos; ``rows``:
    places in the pool.
    """

    ids: np.ndarray
    prompts: np.ndarray
    ends: np.ndarray
    rows: np.ndarray


class Stream:
    """Random rows of a pool, bucketed by length so that padding stays small.

    ``batch(step)`` draws a bucket in proportion to its rows and as many rows as fit into ``tokens``.
    """

    def __init__(
        self, pool: Pool, seed: int, tokens: int, eos: int, bucket: int = 8, shortest: int = 40
    ) -> None:
        self.pool, self.seed, self.tokens, self.eos, self.bucket = pool, seed, tokens, eos, bucket
        lengths = np.maximum(np.diff(pool.starts), shortest)
        padded = -(-lengths // bucket) * bucket
        self.members = {int(size): np.flatnonzero(padded == size) for size in np.unique(padded)}
        self.sizes = np.array(list(self.members))
        counts = np.array([len(rows) * size for size, rows in self.members.items()], float)
        self.shares = counts / counts.sum()

    def batch(self, step: int) -> Batch:
        rng = generator_for(self.seed, step)
        size = int(rng.choice(self.sizes, p=self.shares))
        rows = rng.choice(self.members[size], max(1, self.tokens // size))
        ids = np.full((len(rows), size), self.eos, np.int64)
        prompts, ends = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            tokens, prompts[i] = self.pool.row(int(row))
            ids[i, : len(tokens)] = tokens
            ends[i] = len(tokens)
        return Batch(ids, prompts, ends, rows)


def cross_entropy_at(
    model: Transformer, hidden: Tensor, at: Tensor, targets: Tensor, pad: int = 256
) -> Tensor:
    """Cross-entropy [count] of ``targets`` [count] read at flat positions ``at`` [count] of ``hidden``.

    The row count of the head is padded to a multiple of ``pad``: the CPU backend caches one kernel per
    shape, and an ever-changing count makes its memory grow without end.
    """
    count = len(at)
    padded = F.pad(at, (0, -count % pad))
    logits = model.head(hidden.flatten(0, 1)[padded])[:count]
    return F.cross_entropy(logits.float(), targets, reduction="none")


def causal_mask(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
