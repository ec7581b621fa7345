"""SDTT student: k teacher steps become one (arXiv 2410.21035); loss in ``methods.training.losses.sdtt``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.loop.places import by_places
from methods.training.losses.couplings import mask_coupling
from methods.training.losses.divergences import DIVERGENCES, Kind
from methods.training.losses.masks import drawn, token_log_probs
from methods.training.losses.sdtt import teacher_walk
from methods.training.options import StudentOptions
from methods.training.students.student import Student, antithetic
from methods.training.students.trainer import Trainer
from methods.training.validation import Mode

FEW_STEPS = tuple(Mode("full", per_step) for per_step in (1, 2, 4, 8))


@dataclass(frozen=True)
class SDTTOptions(StudentOptions):
    """``k`` teacher steps per target (4 or 8 at once are worse than 2); ``divergence`` of student and
    targets.
    """

    k: int = 2
    divergence: Kind = "reverse"


def loss_of_batch(student: Student[SDTTOptions], batch: int) -> Tensor:
    """Loss of one batch."""
    options, random, rows = student.options, student.random(batch), student.rows(batch)
    t = antithetic(len(rows.ids), random).clamp(min=1e-3)
    noisy = mask_coupling(rows.ids, student.mask_id, random).at((1 - t).unsqueeze(-1))
    z, delta = torch.where(rows.region, noisy, rows.ids), options.dt(batch)
    masked, vocab = z == student.mask_id, student.model.spec.vocab_size
    with student.rounds.teacher():
        read = student.reader()

        def draw(states: Tensor, u: Tensor) -> Tensor:
            def work(states: Tensor, u: Tensor) -> tuple[Tensor]:
                return (drawn(token_log_probs(read(states), student.mask_id), u),)

            return by_places(work, vocab, states, u)[0]

        walk = teacher_walk(
            lambda ids: student.states(ids, rows.visible, masked),
            draw,
            z,
            masked,
            t,
            delta,
            options.k,
            random,
        )
    own = student.states(z, rows.visible, masked)
    if not len(own):
        return own.sum() * 0.0

    def work(own: Tensor, seen: Tensor) -> tuple[Tensor]:
        log_probs = token_log_probs(student.read(own), student.mask_id)
        wanted = token_log_probs(read(seen), student.mask_id)
        return (DIVERGENCES[options.divergence](log_probs, wanted),)

    return by_places(work, vocab, own, walk.seen)[0].mean()


def build(student: Student[SDTTOptions]) -> LossAt:
    student.check_head()
    return lambda batch: loss_of_batch(student, batch)


TRAINER = Trainer("sdtt", SDTTOptions, build, FEW_STEPS)
