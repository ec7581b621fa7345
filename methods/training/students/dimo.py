"""DiMO student: a block in one step (arXiv 2503.15457); pure functions in ``methods.training.losses.dimo``.

Generator theta and auxiliary model psi are two adapters on one frozen base, which is the teacher phi. A
research feature: no text result is published, and random visible tokens are strange to a model trained on
masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.training.loop.loop import LossAt
from methods.training.losses import dimo
from methods.training.losses.masks import token_log_probs
from methods.training.options import StudentOptions
from methods.training.students.student import Rows, Student
from methods.training.students.trainer import Trainer
from methods.training.validation import Mode

FLOOR = -1e4


@dataclass(frozen=True)
class DiMOOptions(StudentOptions):
    """``start_masks``: share of the region that starts as MASK; ``sigma``: noise on the region's embeddings.

    ``beta`` mixes reverse (1) into forward KL (0); ``psi_lr`` is the auxiliary model's rate.
    """

    start_masks: float = 0.6
    sigma: float = 0.1
    beta: float = 0.0
    ratio: dimo.Schedule = "linear"
    smoothing: float = 0.01
    psi_lr: float = 2e-4


class Trio:
    """Teacher, generator and auxiliary model over one base."""

    def __init__(self, student: Student[DiMOOptions]) -> None:
        self.student, self.options = student, student.options
        torch.manual_seed(self.options.seed + 1)
        student.adapter.add_adapter("psi", student.lora())
        student.adapter.set_adapter("psi")
        self.psi = nn.ParameterList([p for name, p in student.adapter.named_parameters() if ".psi." in name])
        student.adapter.set_adapter("default")
        student.groups.append((self.psi, self.options.psi_lr))
        dimo.freeze_embeddings(student.model)

    def logits(self, ids: Tensor, rows: Rows) -> Tensor:
        """Logits with MASK far below all others, but finite."""
        banned = torch.arange(self.student.model.spec.vocab_size, device=ids.device) == self.student.mask_id
        return self.student.logits(ids, rows.visible).masked_fill(banned, FLOOR)

    @contextmanager
    def as_psi(self) -> Iterator[None]:
        """The model computes as the auxiliary model."""
        self.student.adapter.set_adapter("psi")
        try:
            yield
        finally:
            self.student.adapter.set_adapter("default")

    def play(self, rows: Rows, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(theta's logits at a fresh start, its sample, which places are masked again, that state)."""
        options, mask_id = self.options, self.student.mask_id
        start = dimo.hybrid_start(
            rows.ids, rows.region, mask_id, self.student.model.spec.vocab_size, options.start_masks, random
        )
        embedding = self.student.model.model.embed_tokens

        def shake(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return dimo.perturb(out, rows.region, options.sigma, random)

        hook = embedding.register_forward_hook(shake)
        try:
            logits = self.logits(start, rows)
        finally:
            hook.remove()
        drawn = torch.multinomial(
            logits.detach().double().softmax(-1).flatten(0, 1), 1, generator=random
        ).view_as(start)
        sample = torch.where(rows.region, drawn, rows.ids)
        ratio = dimo.mask_ratio(torch.rand(len(start), generator=random, device=start.device), options.ratio)
        masked = dimo.exact_masks(rows.region, ratio, random)
        return logits, sample, masked, torch.where(masked, mask_id, sample)

    def loss(self, batch: int) -> Tensor:
        """Generator's surrogate; the auxiliary model's cross-entropy takes its gradient here. Each reaches
        its own adapter only.
        """
        random, rows = self.student.random(batch), self.student.rows(batch)
        logits, _, masked, state = self.play(rows, random)
        with torch.no_grad():
            with self.as_psi():
                psi = token_log_probs(self.logits(state, rows), self.student.mask_id)
            with self.student.base():
                phi = token_log_probs(self.logits(state, rows), self.student.mask_id)
            gradient = dimo.jeffrey_gradient(psi, phi, self.options.beta)
            _, sample, again, other = self.play(rows, random)
        surrogate = dimo.surrogate(logits, gradient, masked)
        with self.as_psi():
            auxiliary = dimo.auxiliary_loss(self.logits(other, rows), sample, again, self.options.smoothing)
            (auxiliary / self.options.accumulate).backward()
        return surrogate


def build(student: Student[DiMOOptions]) -> LossAt:
    return Trio(student).loss


TRAINER = Trainer("dimo", DiMOOptions, build, tuple(Mode("full", per_step) for per_step in (12, 16, 24, 48)))
