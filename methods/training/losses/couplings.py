"""Coupled noisy states of one sequence at two times (discrete trajectories; Sahoo et al. 2025, section 4.2).

One Gaussian draw per position is shared by both times. Let j* be the largest noise among the wrong tokens and
theta its lead over the noise of the clean token x: then z = x while mu > theta and z = j* afterwards. j* is
uniform over the wrong tokens, independent of theta, and p_K(theta) is uniform on (0, 1), so the same law
needs two scalars per position instead of K Gaussians. A position flips once and never visits a third token:
this is not the forward chain of uniform-state diffusion, which does. With MASK in the place of j* it *is* the
chain of masked diffusion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coupling:
    """What a position's whole trajectory is made of: ``u`` in [0, 1) and the ``other`` token, each [...]."""

    clean: Tensor
    u: Tensor
    other: Tensor

    def at(self, keep: Tensor) -> Tensor:
        """State ids [...] where a clean token survives with probability ``keep`` (broadcastable)."""
        return torch.where(self.u < keep, self.clean, self.other)


def uniform_coupling(x: Tensor, vocab: int, generator: torch.Generator | None = None) -> Coupling:
    """Fast sampler for uniform-state pairs: u ~ U(0, 1), other ~ uniform over the K - 1 wrong tokens."""
    u = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=x.device)
    other = torch.randint(vocab - 1, x.shape, generator=generator, device=x.device)
    return Coupling(x, u, other + (other >= x))


def mask_coupling(x: Tensor, mask_id: int, generator: torch.Generator | None = None) -> Coupling:
    """Nested masks: at keep probabilities p_s > p_t every mask at s is a mask at t."""
    u = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=x.device)
    return Coupling(x, u, torch.full_like(x, mask_id))


def gaussian_noise(x: Tensor, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The literal noise eps [..., K] of ids ``x``, float64."""
    return torch.randn(*x.shape, vocab, dtype=torch.float64, generator=generator, device=x.device)


def gaussian_latent(x: Tensor, eps: Tensor, gamma: Tensor) -> Tensor:
    """w = a e_x + s eps [..., K] with a^2 = sigmoid(-gamma), s^2 = sigmoid(gamma); ``gamma`` broadcastable to
    ``x``.
    """
    gamma = gamma.to(eps.dtype).expand(x.shape).unsqueeze(-1)
    signal = torch.zeros_like(eps).scatter_(-1, x.unsqueeze(-1), 1.0)
    return torch.sigmoid(-gamma).sqrt() * signal + torch.sigmoid(gamma).sqrt() * eps


def gaussian_state(x: Tensor, eps: Tensor, gamma: Tensor) -> Tensor:
    """argmax of the latent: the discrete state [...] at ``gamma``."""
    return gaussian_latent(x, eps, gamma).argmax(-1)


def flip(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """(theta, j*) of literal noise: the state is x while mu = exp(-gamma / 2) > theta, j* otherwise."""
    own = eps.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    rival, other = eps.scatter(-1, x.unsqueeze(-1), -torch.inf).max(-1)
    return rival - own, other
