"""Models for a canvas of reasoning and answer: masked-diffusion training on the layout of the suites
nano-gsm-ra and nano-code-ra.

The noise covers what decoders of such a canvas meet: both blocks at levels of their own, A still empty while
R is half written (``a_after_r``, Gauss-Seidel), and everything masked behind a cut (block-wise decoders).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.training.data.block_rows import seams
from methods.training.data.corruption import context_weights
from methods.training.loop.loop import LossAt, generator_for
from methods.training.loop.places import by_places
from methods.training.losses.masks import token_log_probs
from methods.training.options import StudentOptions
from methods.training.students.student import Rows, Student
from methods.training.students.trainer import Trainer


@dataclass(frozen=True)
class LockstepOptions(StudentOptions):
    """Shares of the kinds of noise; the other rows have a level per block.

    ``block_wise``: clean, then ``size`` tokens at a random level, then all masked; ``prefix``: R masked
    behind a cut. ``waiting`` is the share of the rows (not of the block-wise ones) whose A is all masked.
    ``tail`` weighs the loss on padding (less than text, but more than elsewhere: the padding of R is what
    tells where A begins), ``geometric`` is the decay of the context weights.
    """

    blocks: bool = True
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.0
    block_wise: float = 0.35
    prefix: float = 0.2
    waiting: float = 0.35
    size: int = 8
    tail: float = 0.6
    geometric: float = 0.3


@dataclass(frozen=True)
class BlockNoise:
    """``ids`` and ``masked`` of noisy rows, and the ``weights`` of the loss, [rows, length] each."""

    ids: Tensor
    masked: Tensor
    weights: Tensor


def corrupt(
    rows: Rows, rng: np.random.Generator, mask_id: int, eos: int, options: LockstepOptions
) -> BlockNoise:
    """Mask laid-out rows; at least one token of every row is masked."""
    clean, inside, prompts, ends = (
        part.cpu().numpy() for part in (rows.ids, rows.region, rows.prompts, rows.ends)
    )
    offset = np.arange(clean.shape[1])[None] - prompts[:, None]
    padding = inside & (clean == eos) & (np.roll(clean, 1, axis=1) == eos)
    masked = (rng.random(clean.shape) < _rates(rng, ends - prompts, offset, padding, options)) & inside
    for row in np.flatnonzero(~masked.any(1)):
        masked[row, prompts[row]] = True
    weights = context_weights(masked, ends, options.geometric) * np.where(padding, options.tail, 1.0)
    hidden, share = (
        torch.from_numpy(masked).to(rows.ids.device),
        torch.from_numpy(weights).float().to(rows.ids.device),
    )
    return BlockNoise(torch.where(hidden, mask_id, rows.ids), hidden, share)


def _rates(
    rng: np.random.Generator,
    lengths: np.ndarray,
    offset: np.ndarray,
    padding: np.ndarray,
    options: LockstepOptions,
) -> np.ndarray:
    """Mask probability [rows, length] of each place, by the row's kind of noise; ``lengths`` [rows] of the
    canvases.
    """
    total, seam = lengths[:, None], seams(lengths)[:, None]
    in_a = offset >= seam
    kind, waiting, share, level = rng.random((4, len(total), 1))
    own, tail_level, tail_share = (np.where(in_a, *rng.random((2, len(total), 1))) for _ in range(3))
    # Decoders that may fill any place settle the padding early, so its rate varies on its own.
    each = np.where(padding & (tail_share < 0.7), tail_level, own)
    prefix = np.where(in_a, each, offset >= (share * (seam + 1)).astype(np.int64))
    apart = np.where(kind < options.block_wise + options.prefix, prefix, each)
    apart = np.where(in_a & (waiting < options.waiting), 1.0, apart)
    start = (share * total).astype(np.int64) // options.size * options.size
    left_to_right = np.where(offset < start, 0.0, np.where(offset < start + options.size, level, 1.0))
    return np.where(kind < options.block_wise, left_to_right, apart)


def loss_of_batch(student: Student[LockstepOptions], batch: int) -> Tensor:
    """Weighted mean cross-entropy of the masked tokens of one batch."""
    rows, options = student.rows(batch), student.options
    student.random(batch)  # seeds the dropout
    rng = generator_for(options.seed + 7, batch, 5)
    noisy = corrupt(rows, rng, student.mask_id, student.model.spec.eos_ids[0], options)
    states, wanted = student.states(noisy.ids, rows.visible, noisy.masked), rows.ids[noisy.masked]

    def work(states: Tensor, wanted: Tensor) -> tuple[Tensor]:
        log_probs = token_log_probs(student.read(states), student.mask_id)
        return (-log_probs.gather(1, wanted.unsqueeze(1)).squeeze(1),)

    (told,) = by_places(work, student.model.spec.vocab_size, states, wanted)
    weights = noisy.weights[noisy.masked]
    return (told * weights).sum() / weights.sum()


def build(student: Student[LockstepOptions]) -> LossAt:
    return lambda batch: loss_of_batch(student, batch)


TRAINER = Trainer("lockstep", LockstepOptions, build)
