"""Log-likelihood of a continuation: exact for causal models, a Monte Carlo bound for masked diffusion.

The bound is LLaDA's: with l of L target tokens masked (l stratified over 1..L), the cross-entropy of the
masked tokens times L / l, averaged over draws, estimates the negative evidence lower bound.
Rows of several requests share a forward pass; the head runs on the positions that count alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.backbone import Backbone

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a prefix and of its continuation."""


@dataclass(frozen=True)
class _Row:
    """One row of a forward pass: ``ids`` [length], the positions that count, their true ids, and what their
    sum weighs.
    """

    request: int
    ids: Tensor
    at: Tensor
    labels: Tensor
    weight: float = 1.0


def causal(backbone: Backbone, prefix: Sequence[int], target: Sequence[int]) -> tuple[float, bool]:
    """(log p(target | prefix) in nats, whether greedy decoding would produce it)."""
    return causal_batch(backbone, [(prefix, target)], 1)[0]


def causal_batch(backbone: Backbone, pairs: Sequence[Pair], batch: int) -> list[tuple[float, bool]]:
    """``causal`` of each pair, ``batch`` rows per forward pass."""
    rows = []
    for request, (prefix, target) in enumerate(pairs):
        ids = torch.tensor([*prefix, *target])
        rows.append(_Row(request, ids, torch.arange(len(prefix), len(ids)), ids[len(prefix) :]))
    totals, greedy = _score(backbone, rows, len(pairs), batch, causal=True)
    return list(zip(totals, greedy, strict=True))


def masked(
    backbone: Backbone, prefix: Sequence[int], target: Sequence[int], draws: int, batch: int, seed: int
) -> tuple[float, bool]:
    """(estimate of the lower bound on log p(target | prefix) in nats, False).

    ``draws`` forward rows in batches of ``batch``; the same seed gives the same estimate.
    """
    return masked_batch(backbone, [(prefix, target)], draws, batch, seed)[0]


def masked_batch(
    backbone: Backbone, pairs: Sequence[Pair], draws: int, batch: int, seed: int
) -> list[tuple[float, bool]]:
    """``masked`` of each pair, ``batch`` rows per forward pass, whichever requests they belong to."""
    rows = [row for request, pair in enumerate(pairs) for row in _drawn(backbone, request, pair, draws, seed)]
    totals, _ = _score(backbone, rows, len(pairs), batch, causal=False)
    return [(total / draws, False) for total in totals]


def _drawn(backbone: Backbone, request: int, pair: Pair, draws: int, seed: int) -> Iterator[_Row]:
    assert backbone.spec.mask_id is not None
    prefix, target = pair
    length, start = len(target), len(prefix)
    ids = torch.tensor([*prefix, *target])
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand(1, generator=generator)
    counts = (((offset + torch.arange(draws) / draws) % 1.0) * length).long() + 1
    hidden = torch.rand(draws, length, generator=generator).argsort(-1).argsort(-1) < counts.unsqueeze(1)
    for places, count in zip(hidden, counts.tolist(), strict=True):
        at = places.nonzero().squeeze(1) + start
        yield _Row(request, ids.index_fill(0, at, backbone.spec.mask_id), at, ids[at], length / count)


@torch.inference_mode()
def _score(
    backbone: Backbone, rows: Sequence[_Row], requests: int, batch: int, causal: bool
) -> tuple[list[float], list[bool]]:
    """(weighted sum of the log-probabilities that count, whether all of them are the likeliest) of each
    request.
    """
    totals, best = [0.0] * requests, [True] * requests
    # Rows of like length side by side, so that little is padded.
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for first in range(0, len(ordered), batch):
        chunk = ordered[first : first + batch]
        logits = _logits(backbone, chunk, causal).float()
        labels = torch.cat([row.labels for row in chunk]).to(logits.device)
        values = logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1).cpu()
        right = (logits.argmax(-1) == labels).cpu()
        sizes = [len(row.at) for row in chunk]
        for row, value, hit in zip(chunk, values.split(sizes), right.split(sizes), strict=True):
            totals[row.request] += row.weight * float(value.sum())
            best[row.request] &= bool(hit.all())
    return totals, best


def _logits(backbone: Backbone, chunk: Sequence[_Row], causal: bool) -> Tensor:
    """Logits [positions that count, vocab] of the rows, padded on the right where their lengths differ."""
    longest = max(len(row.ids) for row in chunk)
    ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    for place, row in enumerate(chunk):
        ids[place, : len(row.ids)] = row.ids
    lengths = torch.tensor([len(row.ids) for row in chunk])
    seen = (
        torch.arange(longest) < lengths.view(-1, 1, 1, 1)
        if int(lengths.min()) < longest and not causal
        else None
    )
    # A causal model's logits at p predict p + 1 whatever the family says of its own way.
    shift = 1 if causal or backbone.spec.shift else 0
    rows = torch.cat([torch.full_like(row.at, place) for place, row in enumerate(chunk)])
    at = torch.cat([row.at for row in chunk]) - shift
    return backbone.score(
        ids.to(backbone.device), causal, (rows.to(backbone.device), at.to(backbone.device)), seen
    )
