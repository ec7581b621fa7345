"""Discrete consistency distillation carried over to masked diffusion (after Sahoo et al. 2025, section 4.2).

Both states share one draw per position, so their masks are nested. Where the token is still hidden from the
teacher (class C) the student learns the teacher's prediction by reverse KL. Where the teacher already sees it
(class B) its prediction is a delta, to which reverse KL is infinite: there the student learns the clean
token, or its own teacher at the noisier state, or nothing. Class A, visible to both, is never trained on.

For an exact teacher E[p(. | z_s) | z_t] = p(. | z_t): *forward* KL has the teacher itself as its optimum and
brings no few-step gain by construction. Reverse KL has the geometric mean, which is sharper.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from methods.training.losses.divergences import DIVERGENCES
from methods.training.losses.masks import NestedPair

Direction = Literal["forward", "reverse"]
Shown = Literal["ce", "anchor", "none"]


def masked_dcd_loss(
    student: Tensor,
    teacher: Tensor,
    clean: Tensor,
    pair: NestedPair,
    direction: Direction = "reverse",
    shown: Shown = "ce",
    weight: float = 0.5,
    anchor: Tensor | None = None,
) -> Tensor:
    """mean over C of the divergence + weight * mean over B of the term chosen by ``shown``.

    ``student`` at z_t, ``teacher`` at z_s and ``anchor`` (the teacher at z_t, for "anchor") are
    log-probabilities [rows, length, vocab]; ``clean`` [rows, length] ids. "ce" suits the teacher's own
    answers, "anchor" human text. No other position and no gradient of the teacher enters. ValueError for
    "anchor" without one.
    """
    loss = student.sum() * 0.0 if not (pair.hidden.any() or pair.shown.any()) else student.new_zeros(())
    if pair.hidden.any():
        loss = loss + DIVERGENCES[direction](student[pair.hidden], teacher.detach()[pair.hidden]).mean()
    if shown == "none" or not pair.shown.any():
        return loss
    wanted = None if anchor is None else anchor.detach()[pair.shown]
    at_shown = shown_losses(student[pair.shown], clean[pair.shown], direction, shown, wanted)
    return loss + weight * at_shown.mean()


def shown_losses(
    student: Tensor, clean: Tensor, direction: Direction, shown: Shown, anchor: Tensor | None = None
) -> Tensor:
    """What is learnt at each place of class B [places], from log-probabilities [places, vocab] and the clean
    tokens [places]. ValueError for "anchor" without one.
    """
    if shown == "ce":
        return -student.gather(-1, clean.unsqueeze(-1)).squeeze(-1)
    if anchor is None:
        raise ValueError("shown='anchor' needs the teacher's log-probabilities at z_t")
    return DIVERGENCES[direction](student, anchor)
