"""Uniform-state diffusion: marginal, reverse posterior and continuous-time NELBO (Sahoo et al. 2025, sections
2 and 3).

K tokens, no mask; q(z_t | x) = alpha_t e_x + (1 - alpha_t) / K. The plug-in posterior and the NELBO take a
probability vector x_theta whose optimum is the *leave-one-out* posterior p(x^l | z_t^{-l}), not p(x^l | z_t):
the evidence of the position's own token is added by the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z [rows, length] ids or [rows, length, K] probabilities, alpha [rows]) -> logits [rows, length, K]."""


@dataclass(frozen=True)
class LogLinear:
    """alpha_t = 1 - (1 - eps) t, the schedule of plain training and of all sampling."""

    eps: float = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.eps) * t

    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return torch.full_like(t, self.eps - 1)


def antithetic_times(rows: int, generator: torch.Generator | None = None, smallest: float = 1e-3) -> Tensor:
    """Times [rows], float64, one in each of ``rows`` equal parts of [smallest, 1): lower variance than iid
    draws.
    """
    device = None if generator is None else generator.device
    draws = torch.rand(rows, dtype=torch.float64, generator=generator, device=device)
    part = (draws + torch.arange(rows, device=device)) / rows
    return smallest + (1 - smallest) * part


def noise(x: Tensor, alpha: Tensor, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """z ~ q(z_t | x) for ids ``x``; ``alpha`` is broadcastable to ``x``. A resampled token may be x
    itself.
    """
    kept = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=x.device) < alpha
    return torch.where(kept, x, torch.randint(vocab, x.shape, generator=generator, device=x.device))


def posterior(x: Tensor, z: Tensor, alpha_s: Tensor, alpha_t: Tensor) -> Tensor:
    """q(z_s | z_t, x) [..., K] for s < t (equation 4).

    ``x`` [..., K] is a probability vector (one-hot for the exact posterior), ``z`` [...] the current ids, the
    alphas are broadcastable to ``z``. alpha_s = alpha_t gives a delta at z, alpha_s = 1 the posterior of the
    clean token.
    """
    vocab = x.shape[-1]
    s, t = (value.to(x.dtype).expand(z.shape).unsqueeze(-1) for value in (alpha_s, alpha_t))
    ratio = t / s
    own = x.gather(-1, z.unsqueeze(-1))
    result = (s - t) * x + (1 - ratio) * (1 - s) / vocab
    result = result.scatter_add(-1, z.unsqueeze(-1), vocab * t * own + ratio - t)
    return result / (vocab * t * own + 1 - t)


def nelbo(log_x: Tensor, z: Tensor, x: Tensor, alpha: Tensor, dalpha: Tensor) -> Tensor:
    """Density over t of the token NELBO [...] in nats, non-negative (equation 17, Rao-Blackwellised).

    ``log_x`` [..., K] log-probabilities of x_theta, ``z`` and ``x`` [...] noisy and clean ids, ``alpha`` and
    ``dalpha`` = d alpha / dt (negative) broadcastable to ``z``. The printed equation carries an extra minus
    sign; the released code and this function do not. Only three [..., K] tensors are alive at a time.
    """
    vocab = log_x.shape[-1]
    alpha, dalpha = (value.to(log_x.dtype).expand(z.shape) for value in (alpha, dalpha))
    mixed = vocab * alpha.unsqueeze(-1) * log_x.exp() + (1 - alpha).unsqueeze(-1)
    logs = mixed.log()
    total = logs.sum(-1)
    at_z = logs.gather(-1, z.unsqueeze(-1)).squeeze(-1)
    at_x = logs.gather(-1, x.unsqueeze(-1)).squeeze(-1)
    same = z == x
    own = torch.where(same, vocab * alpha + 1 - alpha, 1 - alpha)
    kappa = (1 - alpha) / (vocab * alpha + 1 - alpha)
    first = vocab * (1 / own - (-at_z).exp())
    stay = -kappa * (total - vocab * at_z) + (vocab - 1) * kappa * kappa.log()
    move = -(total - vocab * at_z) - vocab * alpha / (1 - alpha) * (at_x - at_z) - kappa.log() / kappa
    return dalpha / (vocab * alpha) * (first - torch.where(same, stay, move))


def nelbo_loss(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    schedule: LogLinear,
    vocab: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """NELBO density [rows, length] of clean ids ``x`` at times ``t`` [rows]; its mean over t in [0, 1] bounds
    -log p.
    """
    alpha, dalpha = schedule.alpha(t), schedule.dalpha(t)
    z = noise(x, alpha.unsqueeze(-1), vocab, generator)
    log_x = denoise(z, alpha).log_softmax(-1)
    return nelbo(log_x, z, x, alpha.unsqueeze(-1), dalpha.unsqueeze(-1))
