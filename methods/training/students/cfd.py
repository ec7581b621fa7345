"""Certainty-forcing student (dParallel); loss in ``methods.training.losses.certainty``. No teacher: labels
are its answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.loop.places import by_places
from methods.training.losses.certainty import over_places, place_certainty, random_masks
from methods.training.losses.masks import token_log_probs
from methods.training.options import StudentOptions
from methods.training.students.student import Rows, Student
from methods.training.students.trainer import Trainer
from methods.training.validation import Mode

THRESHOLDS = (
    *(Mode("block", threshold=threshold) for threshold in (0.9, 0.7, 0.5)),
    *(Mode("block", threshold=threshold, block=24) for threshold in (0.95, 0.9, 0.8)),
)


@dataclass(frozen=True)
class CFDOptions(StudentOptions):
    """``rate`` of masked positions (the paper: fixed 0.5 beats random rates), ``beta`` of the entropy (1
    Dream, 2 LLaDA).

    ``rate_to``: each row's rate is drawn evenly between ``rate`` and this one; for heavily masked states,
    which decoding in long blocks starts from.
    ``complement`` False leaves out the second forward, on the complement of the mask: half the cost, for
    rates near 1. ``block`` > 0 is the paper's setting for LLaDA: one random block active, earlier ones clean,
    later ones masked and without loss. 0 takes the whole answer as one block, as the paper does for Dream.
    """

    answers: int = 4000
    rate: float = 0.5
    rate_to: float | None = None
    complement: bool = True
    beta: float = 1.0
    block: int = 0


def cfd_loss(student: Student[CFDOptions], batch: int) -> Iterator[Tensor]:
    """Loss of one batch: of a mask and (unless left out) of its complement, one forward and backward after
    the other.
    """
    options, rows, random = student.options, student.rows(batch), student.random(batch)
    active, later = active_blocks(rows, options.block, random)
    sides = random_masks(active, row_rates(options, len(active), random), random)
    if not options.complement:
        yield side_loss(student, rows, sides[0], later, options.beta)
        return
    for side in sides:
        yield side_loss(student, rows, side, later, options.beta) / 4


def side_loss(student: Student[Any], rows: Rows, side: Tensor, later: Tensor, beta: float) -> Tensor:
    """Certainty loss at ``side`` [rows, length], which is masked as well as ``later``."""
    states = student.states(torch.where(side | later, student.mask_id, rows.ids), rows.visible, side)
    if not len(states):
        return states.sum() * 0.0

    def work(states: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        log_probs = token_log_probs(student.read(states), student.mask_id)
        return place_certainty(log_probs, labels, sharp=bool(beta))

    vocab = student.model.spec.vocab_size
    cross_entropy, entropy, right = by_places(work, vocab, states, rows.ids[side])
    return over_places(cross_entropy, entropy, right, side).total(beta)


def row_rates(options: CFDOptions, rows: int, random: torch.Generator) -> float | Tensor:
    """The one rate, or a rate per row [rows, 1]."""
    if options.rate_to is None:
        return options.rate
    draws = torch.rand(rows, 1, generator=random, device=random.device)
    return options.rate + (options.rate_to - options.rate) * draws


def active_blocks(rows: Rows, block: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(positions of the active block, positions behind it) [rows, length]; all of the region and nothing for
    block 0.

    The block is drawn evenly from those that hold a token of the answer proper, up to its end-of-text.
    """
    if not block:
        return rows.region, torch.zeros_like(rows.region)
    offset = torch.arange(rows.ids.shape[1], device=rows.ids.device)[None] - rows.prompts[:, None]
    blocks = -(-(rows.ends - rows.prompts) // block)
    draws = torch.rand(len(blocks), generator=random, device=rows.ids.device)
    chosen = (draws * blocks).long()[:, None]
    place = torch.div(offset, block, rounding_mode="floor")
    return rows.region & (place == chosen), rows.region & (place > chosen)


def build(student: Student[CFDOptions]) -> LossAt:
    return partial(cfd_loss, student)


TRAINER = Trainer("cfd", CFDOptions, build, THRESHOLDS)
