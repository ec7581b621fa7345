"""SDTT student: k teacher steps become one (arXiv 2410.21035); loss in ``methods.training.losses.sdtt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from methods.duo.pairs import mask_coupling
from methods.training.losses.divergences import Kind
from methods.training.losses.sdtt import sdtt_loss, sdtt_targets
from methods.training.rounds import AdapterRounds
from methods.training.student import Student, StudentOptions, antithetic


@dataclass(frozen=True)
class SDTTOptions(StudentOptions):
    """``k`` teacher steps per target (4 or 8 at once are worse than 2); ``divergence`` of student and targets."""

    k: int = 2
    divergence: Kind = "reverse"


def sdtt_step(student: Student, rounds: AdapterRounds, options: SDTTOptions, step: int) -> Tensor:
    """Loss of one step."""
    delta, random, rows = rounds.begin(step), student.random(step), student.rows(step)
    t = antithetic(len(rows.ids), random).clamp(min=1e-3)
    noisy = mask_coupling(rows.ids, student.mask_id, random).at((1 - t).unsqueeze(-1))
    z = torch.where(rows.region, noisy, rows.ids)
    with rounds.teacher():
        targets = sdtt_targets(lambda ids: student.log_probs(ids, rows.visible), z, t, delta, student.mask_id, options.k, random)
    return sdtt_loss(student.log_probs(z, rows.visible), targets, options.divergence)


def train_sdtt(options: SDTTOptions) -> Path:
    """Train and write the adapter; returns its folder."""
    student = Student(options, "sdtt")
    rounds = student.rounds()
    return student.train(rounds, lambda step: sdtt_step(student, rounds, options, step))
