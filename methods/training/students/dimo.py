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
from methods.training.loop.places import by_places
from methods.training.losses import dimo
from methods.training.losses.masks import drawn, token_log_probs
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


@dataclass(frozen=True)
class Play:
    """The generator's ``states`` [places, hidden] at the places that are ``masked`` [rows, length] in its
    ``sample``, and the sample so masked: the ``state``.
    """

    states: Tensor
    sample: Tensor
    masked: Tensor
    state: Tensor


class Trio:
    """Teacher, generator and auxiliary model over one base."""

    def __init__(self, student: Student[DiMOOptions]) -> None:
        self.student, self.options, self.vocab = student, student.options, student.model.spec.vocab_size
        student.check_head()
        torch.manual_seed(self.options.seed + 1)
        student.adapter.add_adapter("psi", student.lora())
        student.adapter.set_adapter("psi")
        self.psi = nn.ParameterList([p for name, p in student.adapter.named_parameters() if ".psi." in name])
        student.adapter.set_adapter("default")
        student.groups.append((self.psi, self.options.psi_lr))
        dimo.freeze_embeddings(student.model)

    def read(self, states: Tensor) -> Tensor:
        """Logits [places, vocab] of states, MASK far below all others, but finite."""
        banned = torch.arange(self.vocab, device=states.device) == self.student.mask_id
        return self.student.read(states).masked_fill(banned, FLOOR)

    def log_probs(self, states: Tensor) -> Tensor:
        return token_log_probs(self.read(states), self.student.mask_id)

    @contextmanager
    def as_psi(self) -> Iterator[None]:
        """The model computes as the auxiliary model."""
        self.student.adapter.set_adapter("psi")
        try:
            yield
        finally:
            self.student.adapter.set_adapter("default")

    def play(self, rows: Rows, random: torch.Generator) -> Play:
        """A row of the generator's from a fresh start, masked again."""
        options, mask_id = self.options, self.student.mask_id
        start = dimo.hybrid_start(rows.ids, rows.region, mask_id, self.vocab, options.start_masks, random)
        embedding = self.student.model.model.embed_tokens

        def shake(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return dimo.perturb(out, rows.region, options.sigma, random)

        hook = embedding.register_forward_hook(shake)
        try:
            states = self.student.states(start, rows.visible, rows.region)
        finally:
            hook.remove()
        sample = rows.ids.masked_scatter(rows.region, self.draw(states.detach(), random))
        ratio = dimo.mask_ratio(torch.rand(len(start), generator=random, device=start.device), options.ratio)
        masked = dimo.exact_masks(rows.region, ratio, random)
        return Play(states[masked[rows.region]], sample, masked, torch.where(masked, mask_id, sample))

    @torch.no_grad()
    def draw(self, states: Tensor, random: torch.Generator) -> Tensor:
        """One token per place."""

        def work(states: Tensor, u: Tensor) -> tuple[Tensor]:
            return (drawn(self.read(states).log_softmax(-1), u),)

        u = torch.rand(len(states), dtype=torch.float64, generator=random, device=states.device)
        return by_places(work, self.vocab, states, u)[0]

    def loss(self, batch: int) -> Tensor:
        """Generator's surrogate; the auxiliary model's cross-entropy takes its gradient here. Each reaches
        its own adapter only.
        """
        random, rows = self.student.random(batch), self.student.rows(batch)
        own = self.play(rows, random)
        with torch.no_grad():
            with self.as_psi():
                psi = self.student.states(own.state, rows.visible, own.masked)
            with self.student.base():
                phi = self.student.states(own.state, rows.visible, own.masked)
            other = self.play(rows, random)

        def surrogate(own: Tensor, psi: Tensor, phi: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                gradient = dimo.jeffrey_gradient(self.log_probs(psi), self.log_probs(phi), self.options.beta)
            return (dimo.place_surrogate(self.read(own), gradient),)

        def auxiliary(states: Tensor, sample: Tensor) -> tuple[Tensor]:
            return (dimo.place_auxiliary(self.read(states), sample, self.options.smoothing),)

        with self.as_psi():
            states = self.student.states(other.state, rows.visible, other.masked)
            (told,) = by_places(auxiliary, self.vocab, states, other.sample[other.masked])
            (told.mean() / self.options.accumulate).backward()
        (moved,) = by_places(surrogate, self.vocab, own.states, psi, phi)
        return moved.sum() / len(rows.ids)


def build(student: Student[DiMOOptions]) -> LossAt:
    return Trio(student).loss


TRAINER = Trainer("dimo", DiMOOptions, build, tuple(Mode("full", per_step) for per_step in (12, 16, 24, 48)))
