"""The curriculum's input from the k largest of the K Gaussians of a position (second DUO paper, arXiv
2602.21185; k = 2 suffices).

The largest of N = K - 1 draws come from the top of N uniforms: log U_(1) = log(u_1) / N, then down by
log(u_i) / (N - i + 1). The tail enters the softmax's denominator by its expectation below the smallest kept
value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopLatent:
    """``values`` and ``ids`` [..., k] of the largest latents of each position, largest first; ``sigma`` [...]
    of the noise.

    ``rest``: number of tokens left out.
    """

    values: Tensor
    ids: Tensor
    sigma: Tensor
    rest: int


def top_latent(
    x: Tensor, vocab: int, gamma: Tensor, k: int = 2, generator: torch.Generator | None = None
) -> TopLatent:
    """The k largest entries of w = a e_x + s eps for clean ids ``x`` [...] at ``gamma`` (broadcastable),
    float64.

    ValueError unless 0 < k < vocab.
    """
    if not 0 < k < vocab:
        raise ValueError(f"k = {k} of {vocab} tokens: keep at least one and leave out at least one")
    gamma = gamma.double().expand(x.shape)
    signal, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    draws = torch.rand(*x.shape, k, dtype=torch.float64, generator=generator, device=x.device)
    left = torch.arange(vocab - 1, vocab - 1 - k, -1, device=x.device)
    wrong = sigma.unsqueeze(-1) * torch.special.ndtri((draws.log() / left).cumsum(-1).exp())
    own = signal + sigma * torch.randn(x.shape, dtype=torch.float64, generator=generator, device=x.device)
    values, order = torch.cat([own.unsqueeze(-1), wrong], -1).sort(-1, descending=True)
    ids = torch.cat([x.unsqueeze(-1), _distinct(x, vocab, k, generator)], -1).gather(-1, order)
    return TopLatent(values[..., :k], ids[..., :k], sigma, vocab - k)


def _distinct(x: Tensor, vocab: int, k: int, generator: torch.Generator | None) -> Tensor:
    """k different random ids [..., k], none of them x: each is drawn among those left and moved past the ones
    taken.
    """
    taken = x.unsqueeze(-1)
    for i in range(k):
        fresh = torch.randint(vocab - 1 - i, x.shape, generator=generator, device=x.device)
        for other in taken.sort(-1).values.unbind(-1):
            fresh = fresh + (fresh >= other)
        taken = torch.cat([taken, fresh.unsqueeze(-1)], -1)
    return taken[..., 1:]


def soft_top(latent: TopLatent, tau: float) -> Tensor:
    """Softmax weights [..., k] of the kept tokens at temperature ``tau``; with the tail's share they sum to
    one.
    """
    scaled, sigma = latent.values / tau, latent.sigma / tau
    bound = scaled[..., -1]
    below = torch.special.log_ndtr((bound - sigma**2) / sigma) - torch.special.log_ndtr(bound / sigma)
    tail = math.log(latent.rest) + sigma**2 / 2 + below
    return (scaled - torch.logaddexp(scaled.logsumexp(-1), tail).unsqueeze(-1)).exp()


def dense(latent: TopLatent, weights: Tensor, vocab: int) -> Tensor:
    """The weights as float32 probabilities [..., vocab] for a network that takes those."""
    empty = torch.zeros(*latent.ids.shape[:-1], vocab, device=latent.ids.device)
    return empty.scatter(-1, latent.ids, weights.float())
