"""Certainty-forcing student (dParallel); loss in ``methods.training.losses.certainty``. No teacher: labels are its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from methods.training.losses.certainty import random_masks, two_sided
from methods.training.rounds import AdapterRounds
from methods.training.student import Student, StudentOptions


@dataclass(frozen=True)
class CFDOptions(StudentOptions):
    """``rate`` of masked positions (fixed 0.5 beats random rates), ``beta`` of the entropy (1 Dream, 2 LLaDA)."""

    rate: float = 0.5
    beta: float = 1.0


def cfd_step(student: Student, rounds: AdapterRounds, options: CFDOptions, step: int) -> Tensor:
    """Loss of one step: a mask and its complement, each with its own forward."""
    rounds.begin(step)
    rows = student.rows(step)
    sides = random_masks(rows.region, options.rate, student.random(step))
    logits = [student.log_probs(torch.where(side, student.mask_id, rows.ids), rows.visible) for side in sides]
    return two_sided(logits[0], logits[1], rows.ids, sides, options.beta)


def train_cfd(options: CFDOptions) -> Path:
    """Train and write the adapter; returns its folder."""
    student = Student(options, "cfd")
    rounds = student.rounds()
    return student.train(rounds, lambda step: cfd_step(student, rounds, options, step))
