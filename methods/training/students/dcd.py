"""Consistency student of a masked model ("DCD-A"); loss in ``methods.training.losses.dcd``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.loop.places import by_places
from methods.training.losses.certainty import place_certainty
from methods.training.losses.dcd import Direction, Shown, shown_losses
from methods.training.losses.divergences import DIVERGENCES
from methods.training.losses.integral_cache import IntegralCache, cached, window
from methods.training.losses.masks import Clock, NestedPair, keep_at, nested_pair, token_log_probs
from methods.training.options import StudentOptions
from methods.training.students.sdtt import FEW_STEPS
from methods.training.students.student import Reader, Rows, Student, antithetic
from methods.training.students.trainer import Trainer


@dataclass(frozen=True)
class DCDOptions(StudentOptions):
    """``shown``: what is learnt where the teacher already sees the token, weighted by ``weight``.

    "ce" suits the teacher's answers, "anchor" other data, none learns nothing there. ``clock`` gaussian
    re-times the masks by the integral cache of the vocabulary and changes nothing else. ``beta`` adds the
    tempered entropy of hidden positions that are already right (0 in the faithful setting).
    """

    answers: int = 4000
    direction: Direction = "reverse"
    shown: Shown | None = "ce"
    weight: float = 0.5
    clock: Clock = "linear"
    beta: float = 0.0


def clock_cache(student: Student[DCDOptions]) -> IntegralCache | None:
    """The integral cache of the student's vocabulary over alpha in [0.999, 0.001], kept in the work
    folder.
    """
    if student.options.clock == "linear":
        return None
    vocab = student.model.spec.vocab_size
    return cached(student.options.work, vocab, *window(vocab))


def loss_of_batch(student: Student[DCDOptions], cache: IntegralCache | None, batch: int) -> Tensor:
    """Loss of one batch."""
    options, random, rows = student.options, student.random(batch), student.rows(batch)
    dt = options.dt(batch)
    t = (antithetic(len(rows.ids), random) + dt).clamp(max=1.0)
    keep_t, keep_s = (keep_at(time, options.clock, cache) for time in (t, (t - dt).clamp(min=0.0)))
    pair = nested_pair(rows.ids, rows.region, keep_t, keep_s, student.mask_id, random)
    return pair_loss(student, rows, pair)


def pair_loss(student: Student[DCDOptions], rows: Rows, pair: NestedPair) -> Tensor:
    """`losses.dcd.masked_dcd_loss`, with the logits of a bounded number of places at a time."""
    options, shown = student.options, student.options.shown or "none"
    with student.rounds.teacher():
        read = student.reader()
        teacher = student.states(pair.z_s, rows.visible, pair.hidden)
        anchor = student.states(pair.z_t, rows.visible, pair.shown) if shown == "anchor" else None
    either = pair.hidden | pair.shown
    own = student.states(pair.z_t, rows.visible, either)
    at_hidden, at_shown = own[pair.hidden[either]], own[pair.shown[either]]
    loss = own.sum() * 0.0
    if len(at_hidden):
        loss = loss + _hidden_loss(student, read, at_hidden, teacher, rows.ids[pair.hidden])
    if shown == "none" or not len(at_shown):
        return loss

    def work(own: Tensor, clean: Tensor, *wanted: Tensor) -> tuple[Tensor]:
        log_probs = token_log_probs(student.read(own), student.mask_id)
        known = token_log_probs(read(wanted[0]), student.mask_id) if wanted else None
        return (shown_losses(log_probs, clean, options.direction, shown, known),)

    given = () if anchor is None else (anchor,)
    (told,) = by_places(work, student.model.spec.vocab_size, at_shown, rows.ids[pair.shown], *given)
    return loss + options.weight * told.mean()


def _hidden_loss(
    student: Student[DCDOptions], read: Reader, own: Tensor, teacher: Tensor, clean: Tensor
) -> Tensor:
    """Mean divergence from the teacher at places of class C, and the tempered entropy of the right ones."""
    options = student.options

    def work(own: Tensor, teacher: Tensor, clean: Tensor) -> tuple[Tensor, ...]:
        log_probs = token_log_probs(student.read(own), student.mask_id)
        wanted = token_log_probs(read(teacher), student.mask_id)
        apart = DIVERGENCES[options.direction](log_probs, wanted)
        return (apart, *place_certainty(log_probs, clean)[1:]) if options.beta else (apart,)

    apart, *sure = by_places(work, student.model.spec.vocab_size, own, teacher, clean)
    if not sure or not sure[1].any():
        return apart.mean()
    entropy, right = sure
    return apart.mean() + options.beta * torch.where(right, entropy, 0.0).sum() / right.sum()


def build(student: Student[DCDOptions]) -> LossAt:
    student.check_head()
    cache = clock_cache(student)
    return lambda batch: loss_of_batch(student, cache, batch)


TRAINER = Trainer("dcd", DCDOptions, build, FEW_STEPS)
