"""Work at places of a batch, a bounded number of them at a time: logits of a large vocabulary are never held
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

NUMBERS = 1 << 26
"""Logits held at once: 256 MiB in float32."""
STEP = 256
"""Counts of places are filled up to a multiple, as the CPU backend caches one kernel per shape."""


def piece_of(vocab: int) -> int:
    """Places that are worked on together."""
    return max(STEP, NUMBERS // vocab // STEP * STEP)


def by_places(work: Callable[..., tuple[Tensor, ...]], vocab: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """``work(*inputs)`` for ``inputs`` [places, ...], at least one place, and outputs [places].

    Where there are more places than one piece, each piece is computed again in the backward pass, so that the
    logits of one are held at a time.
    """
    count, piece = len(inputs[0]), piece_of(vocab)
    starts = range(0, count, piece)
    found = []
    for start in starts:
        part = [one[start : start + piece] for one in inputs]
        size = len(part[0])
        filled = torch.arange(size + -size % STEP, device=part[0].device).clamp(max=size - 1)
        padded = [one[filled] for one in part]
        done = work(*padded) if len(starts) == 1 else checkpoint(work, *padded, use_reentrant=False)
        found.append([one[:size] for one in done])
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
