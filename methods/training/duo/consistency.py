"""Discrete consistency distillation of a uniform-state model (Sahoo et al. 2025, section 4.2 and appendix C).

The student at the noisier state of a pair learns the teacher's prediction at the less noisy one: reverse KL
over all positions, no time weight. The reference implementation leaves the teacher in train mode (dropout
stays active) and works on one branch only; see ``methods.training.loop.rounds`` for the teacher's life here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.duo.usdm import Denoise
from methods.training.losses.couplings import uniform_coupling
from methods.training.losses.divergences import DIVERGENCES
from methods.training.losses.integral_cache import IntegralCache

Direction = Literal["forward", "reverse"]


def pair_times(u: Tensor, dt: float, source: Literal["code", "paper"] = "code") -> tuple[Tensor, Tensor]:
    """(t, s) [rows] for uniform draws ``u``: "code" shifts t up by dt and keeps the gap, "paper" cuts s off
    at 0.
    """
    t = (u + dt).clamp(0.0, 1.0) if source == "code" else u
    return t, (t - dt).clamp(min=0.0)


def dcd_loss(
    student: Tensor, teacher: Tensor, valid: Tensor | None = None, direction: Direction = "reverse"
) -> Tensor:
    """Mean over the valid positions [rows, length] of the divergence of log-probabilities [rows, length, K].

    No gradient reaches ``teacher``.
    """
    loss = DIVERGENCES[direction](student, teacher.detach())
    return loss.mean() if valid is None else loss[valid].mean()


def consistency_loss(
    student: Denoise,
    teacher: Denoise,
    x: Tensor,
    u: Tensor,
    dt: float,
    cache: IntegralCache,
    direction: Direction = "reverse",
    generator: torch.Generator | None = None,
) -> Tensor:
    """One distillation loss on clean ids ``x`` [rows, length] with times from ``u`` [rows] in [0, 1].

    gamma is linear in t over the cache's window (the published one, [-4, -1], fits K = 50257 only).
    """
    t, s = pair_times(u, dt)
    pair = uniform_coupling(x, cache.vocab, generator)
    gamma_t, gamma_s = cache.gamma(t), cache.gamma(s)
    keep_t, keep_s = cache.p(gamma_t), cache.p(gamma_s)
    with torch.no_grad():
        target = teacher(pair.at(keep_s.unsqueeze(-1)), cache.alpha(gamma_s)).float().log_softmax(-1)
    log_x = student(pair.at(keep_t.unsqueeze(-1)), cache.alpha(gamma_t)).float().log_softmax(-1)
    return dcd_loss(log_x, target, None, direction)
