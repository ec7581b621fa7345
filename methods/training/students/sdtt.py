"""SDTT student: k teacher steps become one (arXiv 2410.21035); loss in ``methods.training.losses.sdtt``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.losses.couplings import mask_coupling
from methods.training.losses.divergences import Kind
from methods.training.losses.sdtt import sdtt_loss, sdtt_targets
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
    with student.rounds.teacher():
        targets = sdtt_targets(
            lambda ids: student.log_probs(ids, rows.visible), z, t, delta, student.mask_id, options.k, random
        )
    return sdtt_loss(student.log_probs(z, rows.visible), targets, options.divergence)


def build(student: Student[SDTTOptions]) -> LossAt:
    return lambda batch: loss_of_batch(student, batch)


TRAINER = Trainer("sdtt", SDTTOptions, build, FEW_STEPS)
