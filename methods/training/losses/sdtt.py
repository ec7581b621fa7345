"""Self-distillation through time for masked diffusion (Deschenaux and Gulcehre 2024, arXiv 2410.21035,
algorithm 1).

The teacher makes k ancestral steps from the student's input; every position that was masked gets as its
target the full distribution the teacher had for it when it was revealed, or at the last step. The student
learns all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.training.losses.divergences import DIVERGENCES, Kind
from methods.training.losses.masks import drawn

END = 1e-5
LogProbs = Callable[[Tensor], Tensor]
"""ids [rows, length] -> log-probabilities [rows, length, vocab] of each place's token, none on MASK."""
Look = Callable[[Tensor], Tensor]
"""ids [rows, length] -> what the teacher makes of the places masked at the start [places, width]."""
Draw = Callable[[Tensor, Tensor], Tensor]
"""such [n, width] and uniform numbers [n] -> tokens [n]."""


@dataclass(frozen=True)
class Targets:
    """``log_probs`` [rows, length, vocab], zero where ``masked`` [rows, length] (the student's masks) is
    false.

    ``z`` [rows, length] is the teacher's last state.
    """

    log_probs: Tensor
    masked: Tensor
    z: Tensor


@dataclass(frozen=True)
class Walk:
    """``seen`` [places, width]: what the teacher made of each place when it was revealed, or last; ``z``
    [rows, length] its last state.
    """

    seen: Tensor
    z: Tensor


def teacher_times(t: Tensor, delta: float, k: int, end: float = END) -> Tensor:
    """Times [k, rows] at which the teacher looks: max(t - i * delta, end).

    The released grid t * space + (1 - t) * t_end has one factor wrong: for k = 2 it looks at t + (1 - t)(t -
    2 delta) first.
    """
    steps = torch.arange(k, dtype=torch.float64, device=t.device).unsqueeze(-1)
    return (t.double() - steps * delta).clamp(min=end)


def reveal_share(tau: Tensor, delta: float) -> Tensor:
    """Chance [rows] that a mask at time tau is revealed on the way to tau - delta, for alpha = 1 - t: delta /
    tau, at most 1.
    """
    return (delta / tau).clamp(max=1.0)


@torch.no_grad()
def teacher_walk(
    look: Look,
    draw: Draw,
    z: Tensor,
    masked: Tensor,
    t: Tensor,
    delta: float,
    k: int = 2,
    generator: torch.Generator | None = None,
) -> Walk:
    """k steps of ``delta`` from ids ``z`` and its masks ``masked`` [rows, length] at times ``t`` [rows]."""
    hidden, kept = masked.clone(), None
    for tau in teacher_times(t, delta, k).to(z.device):
        seen = look(z)
        kept = seen if kept is None else torch.where(hidden[masked].unsqueeze(-1), seen, kept)
        dice = torch.rand(z.shape, dtype=torch.float64, generator=generator, device=z.device)
        shown = hidden & (dice < reveal_share(tau, delta).unsqueeze(-1))
        if shown.any():
            u = torch.rand(int(shown.sum()), dtype=torch.float64, generator=generator, device=z.device)
            z = z.masked_scatter(shown, draw(seen[shown[masked]], u))
        hidden = hidden & ~shown
    assert kept is not None
    return Walk(kept, z)


@torch.no_grad()
def sdtt_targets(
    teacher: LogProbs,
    z: Tensor,
    t: Tensor,
    delta: float,
    mask_id: int,
    k: int = 2,
    generator: torch.Generator | None = None,
) -> Targets:
    """Teacher targets for ids ``z`` [rows, length] at times ``t`` [rows], k steps of ``delta``: whole rows
    of a small vocabulary.

    A revealed position keeps the distribution it was drawn from, never the one-hot of the drawn token.
    """
    masked = z == mask_id
    walk = teacher_walk(lambda ids: teacher(ids)[masked], drawn, z, masked, t, delta, k, generator)
    log_probs = walk.seen.new_zeros(*z.shape, walk.seen.shape[-1])
    log_probs[masked] = walk.seen
    return Targets(log_probs, masked, walk.z)


def sdtt_loss(student: Tensor, targets: Targets, kind: Kind = "reverse") -> Tensor:
    """Mean over masked positions of the divergence from the targets; ``student`` [rows, length, vocab]
    log-probabilities.

    Zero where nothing is masked. "reverse" (KL(student || teacher)) is the published default; "mse" is over
    log-probabilities.
    """
    if not targets.masked.any():
        return student.sum() * 0.0
    return DIVERGENCES[kind](student[targets.masked], targets.log_probs[targets.masked]).mean()
