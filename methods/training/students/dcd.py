"""Consistency student of a masked model ("DCD-A"); loss in ``methods.training.losses.dcd``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.losses.certainty import certainty
from methods.training.losses.dcd import Direction, Shown, masked_dcd_loss
from methods.training.losses.integral_cache import IntegralCache, cached, window
from methods.training.losses.masks import Clock, keep_at, nested_pair
from methods.training.options import StudentOptions
from methods.training.students.sdtt import FEW_STEPS
from methods.training.students.student import Student, antithetic
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
    with student.rounds.teacher():
        teacher = student.log_probs(pair.z_s, rows.visible)
        anchor = student.log_probs(pair.z_t, rows.visible) if options.shown == "anchor" else None
    own = student.log_probs(pair.z_t, rows.visible)
    loss = masked_dcd_loss(
        own, teacher, rows.ids, pair, options.direction, options.shown or "none", options.weight, anchor
    )
    return loss + options.beta * certainty(own, rows.ids, pair.hidden).entropy if options.beta else loss


def build(student: Student[DCDOptions]) -> LossAt:
    cache = clock_cache(student)
    return lambda batch: loss_of_batch(student, cache, batch)


TRAINER = Trainer("dcd", DCDOptions, build, FEW_STEPS)
