"""Trajectory-order student (d3LLM, arXiv 2601.07568): certainty forcing on masks in the order in which the
teacher decoded.

The teacher's step maps say in which order its own answer was written. A window of the answer is masked as it
was at some moment of that decoding, everything behind it is masked, everything before it clean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from methods.training.loop.loop import LossAt
from methods.training.losses.certainty import trajectory_masks, window_ratio, window_width
from methods.training.options import StudentOptions, TrainingError
from methods.training.students.cfd import THRESHOLDS, side_loss
from methods.training.students.student import Rows, Student
from methods.training.students.trainer import Trainer


@dataclass(frozen=True)
class D3LLMOptions(StudentOptions):
    """``widths``: windows in tokens at the start and at the ends of the three epochs' growth; they start at
    multiples of ``block``.

    ``beta`` weighs the entropy (1 Dream, 2 LLaDA).
    """

    answers: int = 4000
    widths: tuple[int, int, int] = (16, 24, 32)
    block: int = 32
    beta: float = 1.0


def orders_of(student: Student[D3LLMOptions], rows: Rows) -> Tensor:
    """Decoding order [rows, length] of the region, -1 outside; the padding behind an answer was written after
    it, left to right.
    """
    pool, orders = student.data.pool, student.data.orders
    table = np.full(rows.ids.shape, -1, np.int64)
    for row, place in enumerate(rows.places):
        prompt, start, stop = int(pool.prompts[place]), int(pool.starts[place]), int(pool.starts[place + 1])
        size = int(rows.region[row].sum())
        order = orders[start + prompt : stop][:size]
        table[row, prompt : prompt + size] = np.concatenate([order, np.arange(len(order), size)])
    return torch.from_numpy(table).to(rows.ids.device)


def d3llm_loss(student: Student[D3LLMOptions], batch: int) -> Iterator[Tensor]:
    """Loss of one batch: the masks of a moment of the teacher's decoding and their complement, one forward
    and backward after the other.
    """
    options, rows, random = student.options, student.rows(batch), student.random(batch)
    progress = batch / (options.schedule.steps * options.accumulate)
    width = window_width(progress, options.widths)
    windows = -(-(rows.ends - rows.prompts) // options.block)
    draws = torch.rand(len(windows), generator=random, device=rows.ids.device)
    start = (draws * windows).long() * options.block
    ratio = window_ratio(progress, len(start), random)
    window = trajectory_masks(orders_of(student, rows), start, width, ratio)
    for side in (window.masked, window.complement):
        yield side_loss(student, rows, side, window.after, options.beta) / 4


def build(student: Student[D3LLMOptions]) -> LossAt:
    """TrainingError for answers without the teacher's step maps."""
    data = student.data
    answers = np.concatenate(
        [
            data.orders[s + p : e]
            for s, p, e in zip(data.pool.starts[:-1], data.pool.prompts, data.pool.starts[1:], strict=True)
        ]
    )
    if (answers < 0).any():
        raise TrainingError(
            f"{data.facts['source']} has answers without step_map: make them with bench generate-data "
            "(--data)"
        )
    return partial(d3llm_loss, student)


TRAINER = Trainer("d3llm", D3LLMOptions, build, THRESHOLDS)
