"""Log-likelihood of a continuation: exact for causal models, a Monte Carlo bound for masked diffusion.

The bound is LLaDA's: with l of L target tokens masked (l stratified over 1..L), the cross-entropy of the
masked tokens times L / l, averaged over draws, estimates the negative evidence lower bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.decoding.backbone import Backbone


@torch.inference_mode()
def causal(backbone: Backbone, prefix: list[int], target: list[int]) -> tuple[float, bool]:
    """(log p(target | prefix) in nats, whether greedy decoding would produce it)."""
    ids = torch.tensor([prefix + target], device=backbone.device)
    logits = backbone.score(ids, causal=True)[0, len(prefix) - 1 : -1].float()
    labels = ids[0, len(prefix) :]
    chosen = logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).sum()
    return float(chosen), bool((logits.argmax(-1) == labels).all())


@torch.inference_mode()
def masked(backbone: Backbone, prefix: list[int], target: list[int], draws: int, batch: int, seed: int) -> tuple[float, bool]:
    """(estimate of the lower bound on log p(target | prefix) in nats, False).

    ``draws`` forward rows in batches of ``batch``; the same seed gives the same estimate.
    """
    length, start = len(target), len(prefix)
    ids = torch.tensor(prefix + target, device=backbone.device)
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand(1, generator=generator)
    counts = (((offset + torch.arange(draws) / draws) % 1.0) * length).long() + 1
    total = 0.0
    for chunk in counts.split(batch):
        noise = torch.rand(len(chunk), length, generator=generator)
        hidden = noise.argsort(-1).argsort(-1) < chunk.unsqueeze(1)
        total += _weighted_cross_entropy(backbone, ids, start, hidden.to(ids.device), chunk.to(ids.device))
    return -total / draws, False


def _weighted_cross_entropy(backbone: Backbone, ids: Tensor, start: int, hidden: Tensor, counts: Tensor) -> float:
    assert backbone.spec.mask_id is not None
    rows = ids.repeat(len(hidden), 1)
    rows[:, start:] = rows[:, start:].masked_fill(hidden, backbone.spec.mask_id)
    logits = backbone.score(rows)
    logits = (logits[:, start - 1 : -1] if backbone.spec.shift else logits[:, start:]).float()
    labels = ids[start:].expand(len(hidden), -1)
    losses = -logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).squeeze(2)
    weight = labels.shape[1] / counts
    return float(((losses * hidden).sum(1) * weight).sum())
