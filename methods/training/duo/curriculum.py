"""Tempered-softmax curriculum (Sahoo et al. 2025, section 4.1): the network sees softmax(w / tau) instead of
argmax w.

Not a bound on the likelihood (validation always uses the NELBO on ids), but of lower variance early in
training. The loss itself is the discrete NELBO at z = argmax w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.duo.usdm import Denoise, nelbo
from methods.training.duo.sparse import dense, soft_top, top_latent
from methods.training.losses.couplings import gaussian_latent, gaussian_noise
from methods.training.losses.integral_cache import IntegralCache

DISCRETE = 1e-10  # a temperature at which the softmax is a one-hot vector


@dataclass(frozen=True)
class Temperature:
    """log10 tau moves linearly from ``start`` to ``end`` between two steps; afterwards training is discrete.

    Every published run used the constant -3 for its first half (``first_step`` 0, ``last_step`` 500 000).
    """

    start: float = -3.0
    end: float = -3.0
    first_step: int = 0
    last_step: int = 500_000

    def tau(self, step: int) -> float:
        """Temperature at a training step; ``DISCRETE`` once the curriculum is over."""
        if step >= self.last_step:
            return DISCRETE
        share = min(1.0, max(0.0, (step - self.first_step) / max(1, self.last_step - self.first_step)))
        return 10 ** (self.start + share * (self.end - self.start))


def soft_input(latent: Tensor, tau: float) -> Tensor:
    """softmax(w / tau) [..., K] of latents w [..., K]; tends to the one-hot of argmax w as tau goes to 0."""
    return (latent / tau).softmax(-1)


def curriculum_loss(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    cache: IntegralCache,
    tau: float,
    generator: torch.Generator | None = None,
    top: int = 0,
) -> Tensor:
    """Loss density [rows, length] of clean ids ``x`` at times ``t`` [rows], gamma linear in t over the
    cache's window.

    The network gets probabilities [rows, length, K] and the alpha [rows] that T assigns to gamma; d alpha /
    dt comes from the tabulated slope. The released code takes a finite difference instead. ``top`` > 0 keeps
    only so many of the K Gaussians of a position (methods.training.duo.sparse).
    """
    gamma = cache.gamma(t)
    alpha = cache.alpha(gamma)
    dalpha = cache.dalpha(gamma) * (cache.gamma_max - cache.gamma_min)
    if top:
        kept = top_latent(x, cache.vocab, gamma.unsqueeze(-1), top, generator)
        soft, z = dense(kept, soft_top(kept, tau), cache.vocab), kept.ids[..., 0]
    else:
        latent = gaussian_latent(x, gaussian_noise(x, cache.vocab, generator), gamma.unsqueeze(-1))
        soft, z = soft_input(latent, tau).float(), latent.argmax(-1)
    log_x = denoise(soft, alpha).double().log_softmax(-1)
    return nelbo(log_x, z, x, alpha.unsqueeze(-1), dalpha.unsqueeze(-1))
