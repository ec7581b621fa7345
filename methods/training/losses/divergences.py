"""Divergences between two categorical distributions given as log-probabilities [..., vocab].

Forward is KL(teacher || student), reverse KL(student || teacher). An entry of -inf in the first argument of a
KL costs nothing; in the second alone it makes the divergence infinite, as it must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["forward", "reverse", "mse", "tvd"]


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) = sum_v p (log p - log q), shape [...]; 0 log 0 = 0. Both arguments may carry
    gradients.
    """
    impossible = first == -torch.inf
    log_p, log_q = first.masked_fill(impossible, 0.0), second.masked_fill(impossible, 0.0)
    return (first.exp() * (log_p - log_q)).sum(-1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) [...]."""
    return kl(teacher, student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher) [...]: mode seeking, the published default of SDTT and of DUO's distillation."""
    return kl(student, teacher)


def log_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the vocabulary of the squared difference of log-probabilities [...] (SDTT, section 4)."""
    both = (student == -torch.inf) & (teacher == -torch.inf)
    return (student.masked_fill(both, 0.0) - teacher.masked_fill(both, 0.0)).square().mean(-1)


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    """0.5 sum |p - q| [...], on probabilities. The SDTT release takes it on log-probabilities by mistake."""
    return 0.5 * (student.exp() - teacher.exp()).abs().sum(-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "mse": log_mse,
    "tvd": total_variation,
}
"""Each takes (student, teacher) log-probabilities."""
