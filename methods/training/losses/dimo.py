"""DiMO: one-step generation on policy (Zhu et al. 2025, arXiv 2503.15457).

A generator theta fills a randomly initialised row in one pass; its sample is masked again, and the difference
between the frozen teacher phi and an auxiliary model psi (trained on the generator's samples) at that state
is the gradient for theta's logits. A one-step factorised network on a constant input cannot correlate its
tokens: the randomness of the start carries the joint.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.training.losses.divergences import kl

Schedule = Literal["linear", "arccos", "cosine"]


def hybrid_start(
    ids: Tensor,
    region: Tensor,
    mask_id: int,
    tokens: int,
    share: float = 0.6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Start state: of each row's ``region`` [rows, length] exactly round(share * size) places MASK, the
    others random tokens.

    Random tokens are uniform over the ids below ``tokens`` (and never MASK); everything outside the region
    stays. share 1 (all masks) collapses, 0 is unstable (paper, table 5).
    """
    masked = exact_masks(region, torch.full((len(ids),), share), generator, least=0)
    noise = torch.randint(tokens - (mask_id < tokens), ids.shape, generator=generator, device=ids.device)
    noise = noise + (noise >= mask_id) if mask_id < tokens else noise
    return torch.where(masked, mask_id, torch.where(region, noise, ids))


def exact_masks(
    region: Tensor, ratio: Tensor, generator: torch.Generator | None = None, least: int = 1
) -> Tensor:
    """Boolean [rows, length]: max(least, round(ratio * size)) random places of each row's region; ``ratio``
    [rows].
    """
    size = region.sum(-1)
    count = (ratio.to(size.device) * size).round().long().clamp(min=least).minimum(size)
    dice = torch.rand(region.shape, generator=generator, device=region.device).masked_fill(~region, 2.0)
    return (dice.argsort(-1).argsort(-1) < count.unsqueeze(-1)) & region


def mask_ratio(u: Tensor, schedule: Schedule = "linear") -> Tensor:
    """Mask ratio of a uniform draw: Dream's own is linear; arccos(u) / (pi/2) for MaskGIT, cos(pi u / 2) for
    Meissonic.
    """
    if schedule == "arccos":
        return torch.arccos(u) / (math.pi / 2)
    return torch.cos(u * math.pi / 2) if schedule == "cosine" else u


def perturb(
    embedding: Tensor, region: Tensor, strength: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """sqrt(1 - s^2) e + s * N(0, 1) inside ``region`` [rows, length] of embeddings [rows, length, hidden];
    the prompt untouched.
    """
    noise = torch.randn(embedding.shape, generator=generator, device=embedding.device, dtype=embedding.dtype)
    mixed = (1 - strength**2) ** 0.5 * embedding + strength * noise
    return torch.where(region.unsqueeze(-1), mixed, embedding)


def jeffrey_gradient(psi: Tensor, phi: Tensor, beta: float = 0.0) -> Tensor:
    """(1 - beta) (p_psi - p_phi) + beta p_psi (log(p_psi / p_phi) - KL(psi || phi)) [..., vocab], from
    log-probabilities.

    The gradient, by psi's logits, of (1 - beta) KL(phi || psi) + beta KL(psi || phi). The release sets beta =
    0; its best published score is at -0.2. An entry that is -inf in psi contributes 0.
    """
    p_psi, p_phi = psi.exp(), phi.exp()
    impossible = psi == -torch.inf
    ratio = psi.masked_fill(impossible, 0.0) - phi.masked_fill(impossible, 0.0)
    reverse = p_psi * (ratio - kl(psi, phi).unsqueeze(-1))
    return (1 - beta) * (p_psi - p_phi) + beta * reverse


def surrogate(logits: Tensor, gradient: Tensor, masked: Tensor) -> Tensor:
    """0.5 ||z - sg(z - g)||^2 summed over masked places and vocabulary, divided by rows: its gradient by z is
    g / rows.

    ``logits`` z [rows, length, vocab] are the generator's at its start state, ``gradient`` g is taken at the
    re-masked sample.
    """
    return place_surrogate(logits[masked], gradient[masked]).sum() / len(logits)


def place_surrogate(logits: Tensor, gradient: Tensor) -> Tensor:
    """0.5 ||z - sg(z - g)||^2 [places] of ``logits`` and ``gradient`` [places, vocab]."""
    target = (logits - gradient).detach()
    finite = torch.isfinite(logits)
    gap = torch.where(finite, logits, torch.zeros_like(logits)) - torch.where(
        finite, target, torch.zeros_like(target)
    )
    return 0.5 * gap.square().sum(-1)


def auxiliary_loss(logits: Tensor, sample: Tensor, masked: Tensor, smoothing: float = 0.01) -> Tensor:
    """Cross-entropy of psi toward the generator's sample at masked places; ``logits`` [rows, length, vocab]
    with finite entries.

    The release smooths labels by 0.1; over 152 000 classes that spreads a tenth of the mass on nonsense, so
    the default is 0.01.
    """
    return place_auxiliary(logits[masked], sample[masked], smoothing).mean()


def place_auxiliary(logits: Tensor, sample: Tensor, smoothing: float = 0.01) -> Tensor:
    """The same at each place [places]."""
    return F.cross_entropy(logits, sample, label_smoothing=smoothing, reduction="none")


def freeze_embeddings(model: nn.Module) -> None:
    """Token embeddings of generator and auxiliary model take no gradient (released configuration)."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.requires_grad_(False)
