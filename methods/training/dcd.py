"""Consistency student of a masked model ("DCD-A"); loss in ``methods.training.losses.dcd``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from methods.duo.cache import IntegralCache, cached, window
from methods.training.losses.certainty import certainty
from methods.training.losses.dcd import Direction, Shown, masked_dcd_loss
from methods.training.losses.masks import Clock, keep_at, nested_pair
from methods.training.rounds import AdapterRounds
from methods.training.student import Student, StudentOptions, antithetic


@dataclass(frozen=True)
class DCDOptions(StudentOptions):
    """``shown``: what is learnt where the teacher already sees the token, weighted by ``weight``.

    ``clock`` gaussian re-times the masks by the integral cache of the vocabulary and changes nothing else. ``beta`` adds the tempered
    entropy of hidden positions that are already right (0 in the faithful setting).
    """

    direction: Direction = "reverse"
    shown: Shown = "ce"
    weight: float = 0.5
    clock: Clock = "linear"
    beta: float = 0.0


def clock_cache(student: Student, options: DCDOptions) -> IntegralCache | None:
    """The integral cache of the student's vocabulary over alpha in [0.999, 0.001], kept in the work folder."""
    if options.clock == "linear":
        return None
    vocab = student.model.spec.vocab_size
    return cached(options.work, vocab, *window(vocab))


def dcd_step(student: Student, rounds: AdapterRounds, options: DCDOptions, cache: IntegralCache | None, step: int) -> Tensor:
    """Loss of one step."""
    dt, random, rows = rounds.begin(step), student.random(step), student.rows(step)
    t = (antithetic(len(rows.ids), random) + dt).clamp(max=1.0)
    keep_t, keep_s = (keep_at(time, options.clock, cache) for time in (t, (t - dt).clamp(min=0.0)))
    pair = nested_pair(rows.ids, rows.region, keep_t, keep_s, student.mask_id, random)
    with rounds.teacher():
        teacher = student.log_probs(pair.z_s, rows.visible)
        anchor = student.log_probs(pair.z_t, rows.visible) if options.shown == "anchor" else None
    own = student.log_probs(pair.z_t, rows.visible)
    loss = masked_dcd_loss(own, teacher, rows.ids, pair, options.direction, options.shown, options.weight, anchor)
    return loss + options.beta * certainty(own, rows.ids, pair.hidden).entropy if options.beta else loss


def train_dcd(options: DCDOptions) -> Path:
    """Train and write the adapter; returns its folder."""
    torch.set_num_threads(options.threads)
    student = Student(options, "dcd")
    rounds, cache = student.rounds(), clock_cache(student, options)
    return student.train(rounds, lambda step: dcd_step(student, rounds, options, cache, step))
