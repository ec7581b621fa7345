"""D2F (discrete diffusion forcing): distil a block-causal student from its own bidirectional base.

The student is base + LoRA under a block-causal mask (the prompt is block 0), the teacher the same
weights without the adapter and with full attention, both on the same noisy row; later blocks are
noisier than earlier ones. Wang et al. 2025, "Diffusion LLMs Can Do Faster-Than-AR Inference via
Discrete Diffusion Forcing".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.training.loop.loop import LossAt, generator_for
from methods.training.loop.places import by_places
from methods.training.options import StudentOptions
from methods.training.students.student import Rows, Student
from methods.training.students.trainer import Trainer
from methods.training.validation import D2FMode

SMALLEST_RATE = 0.05  # bounds the weight 1 / rate where ``low`` is set near 0


@dataclass(frozen=True)
class D2FOptions(StudentOptions):
    """``low`` and ``high`` bound the mask rates of a row's blocks of ``block_size`` tokens (published: 0.2
    and 0.7, blocks of 16).
    """

    block_size: int = 8
    low: float = 0.2
    high: float = 0.7
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    decay: float = 0.0


def block_causal_mask(prompts: Tensor, length: int, block_size: int) -> Tensor:
    """May-attend mask [rows, 1, length, length]: a block sees itself, earlier blocks and the prompt."""
    offset = torch.arange(length, device=prompts.device)[None] - prompts[:, None]
    block = torch.where(offset < 0, 0, offset // block_size + 1)
    return (block[:, :, None] >= block[:, None, :])[:, None]


def noise_levels(rng: np.random.Generator, blocks: int, low: float = 0.2, high: float = 0.7) -> np.ndarray:
    """Mask rates [blocks], rising from block to block: p1 ~ U(low, high), later steps at most (high -
    p1)/(blocks - 1).
    """
    first = rng.uniform(low, high)
    rises = rng.random(blocks - 1) * (high - first) / max(1, blocks - 1)
    return first + np.concatenate([[0.0], np.cumsum(rises)])


def place_cross_entropy(student: Tensor, teacher: Tensor, rates: Tensor) -> Tensor:
    """-sum_v q_teacher(v) log p_student(v) / rate [count] over [count, vocab] logits; its gradient is that of
    KL(teacher | student).
    """
    losses = -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(-1)
    return losses / rates


@dataclass(frozen=True)
class Corrupted:
    """``ids``, ``masked`` and the mask ``rates`` at every place, [rows, length] each."""

    ids: Tensor
    masked: Tensor
    rates: Tensor


def corrupt(rows: Rows, options: D2FOptions, mask_id: int, rng: np.random.Generator) -> Corrupted:
    """Mask every row's region at rates that rise from block to block; the prompt stays."""
    region, prompts = rows.region.cpu().numpy(), rows.prompts.cpu().numpy()
    offset = np.arange(region.shape[1])[None] - prompts[:, None]
    rates = np.zeros(region.shape)
    for row in range(len(region)):
        blocks = -(-int(region[row].sum()) // options.block_size)
        levels = noise_levels(rng, blocks, options.low, options.high)
        rates[row, region[row]] = levels[offset[row, region[row]] // options.block_size]
    masked = torch.from_numpy((rng.random(region.shape) < rates) & region).to(rows.ids.device)
    bounded = torch.from_numpy(np.maximum(rates, SMALLEST_RATE)).float().to(rows.ids.device)
    return Corrupted(torch.where(masked, mask_id, rows.ids), masked, bounded)


def loss_of_batch(student: Student[D2FOptions], batch: int) -> Tensor:
    """Loss of one batch: a function of (seed, batch) and the weights."""
    rows, options = student.rows(batch), student.options
    student.random(batch)  # seeds the dropout
    return d2f_loss(
        student, rows, corrupt(rows, options, student.mask_id, generator_for(options.seed + 7, batch, 4))
    )


def d2f_loss(student: Student[D2FOptions], rows: Rows, noisy: Corrupted) -> Tensor:
    """Mean over masked places of the soft-label cross-entropy divided by the mask rate there."""
    at = noisy.masked
    with student.base():
        teacher = student.states(noisy.ids, rows.visible, at)
    causal = block_causal_mask(rows.prompts, rows.ids.shape[1], student.options.block_size)
    own = student.states(noisy.ids, causal & rows.visible, at)
    if not len(own):
        return own.sum() * 0.0

    def work(own: Tensor, teacher: Tensor, rates: Tensor) -> tuple[Tensor]:
        # The adapter leaves the head alone, so that both are read by the same one.
        with torch.no_grad():
            wanted = student.read(teacher)
        return (place_cross_entropy(student.read(own), wanted, rates),)

    (losses,) = by_places(work, student.model.spec.vocab_size, own, teacher, noisy.rates[at])
    return losses.mean()


def build(student: Student[D2FOptions]) -> LossAt:
    student.check_head()
    return lambda batch: loss_of_batch(student, batch)


TRAINER = Trainer("d2f", D2FOptions, build, (D2FMode(),))
