"""Rounds of progressive distillation: a step that doubles, a teacher that becomes the student, an averaged
result.

Shared by DUO's consistency distillation, its masked variant and SDTT. All state sits in parameters and
buffers, so that a checkpoint of the rounds is complete.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.training.loop.shards import Shards


@dataclass(frozen=True)
class RoundSchedule:
    """``rounds`` rounds of ``every`` optimiser steps; the time step of round n is ``first`` * 2^n.

    DUO: 1/512, 10 000, 5 rounds, so 1/512 .. 1/32. SDTT: (1 - 1e-5)/1024, 10 000, 7 rounds.
    """

    first: float = 1 / 512
    every: int = 10_000
    rounds: int = 5

    @property
    def steps(self) -> int:
        return self.every * self.rounds

    def round_of(self, step: int) -> int:
        """Round (0-based) of an optimiser step; the last one beyond the end."""
        return min(step // self.every, self.rounds - 1)

    def dt(self, step: int) -> float:
        return self.first * 2 ** self.round_of(step)

    def starts_round(self, step: int) -> bool:
        """Whether the teacher is replaced before this step."""
        return step % self.every == 0 and step < self.steps


def average_decay(decay: float, updates: int) -> float:
    """Decay of the running average at its n-th update: min(decay, (1 + n) / (10 + n))."""
    return min(decay, (1 + updates) / (10 + updates))


class _Life(nn.Module):
    """When the teacher is replaced and the average taken; ``begin(step)`` before every step, ``finish()``
    after the last.

    The teacher is a copy of the *raw* student (an averaged teacher is worse: 83.9 against 75.2 at 16 steps in
    the DUO paper); the average is only what is delivered.
    """

    updates: Tensor

    def __init__(self, schedule: RoundSchedule, decay: float) -> None:
        super().__init__()
        self.schedule, self.decay = schedule, decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def triples(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(student, teacher, average) of every trained tensor."""

    @torch.no_grad()
    def begin(self, step: int) -> float:
        """Take in the last update, swap the teacher where a round starts; returns the time step of this
        step.
        """
        if step > 0:
            self._absorb()
        if self.schedule.starts_round(step):
            for student, teacher, _ in self.triples():
                teacher.copy_(student)
        return self.schedule.dt(step)

    def finish(self) -> None:
        """Take in the very last update."""
        self._absorb()

    @torch.no_grad()
    def _absorb(self) -> None:
        decay = average_decay(self.decay, int(self.updates))
        self.updates += 1
        for student, _, average in self.triples():
            average.lerp_(student, 1 - decay)


class Rounds(_Life):
    """Three whole modules: ``student``, ``teacher``, ``average``. For small models."""

    def __init__(self, student: nn.Module, schedule: RoundSchedule, decay: float = 0.999) -> None:
        super().__init__(schedule, decay)
        self.student = student
        self.teacher = frozen_copy(student)
        self.average = frozen_copy(student)

    def triples(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(
            self.student.parameters(), self.teacher.parameters(), self.average.parameters(), strict=True
        )

    def train(self, mode: bool = True) -> Rounds:
        """Only the student ever trains: dropout in a teacher would be noise in its targets."""
        super().train(mode)
        self.teacher.eval()
        self.average.eval()
        return self


class AdapterRounds(_Life):
    """One frozen base, and three sets of the tensors that train (an adapter): student, teacher snapshot,
    average.

    The base is no part of the state: a checkpoint holds the three sets. ``model`` computes as the student
    except inside ``teacher()`` and ``average()``; with ``shards`` all ranks enter these together.
    """

    def __init__(
        self, model: nn.Module, schedule: RoundSchedule, decay: float = 0.999, shards: Shards | None = None
    ) -> None:
        super().__init__(schedule, decay)
        self._hidden, self._shards = [model], [shards]
        self.student = nn.ParameterList([p for p in model.parameters() if p.requires_grad])
        for i, parameter in enumerate(self.student):
            self.register_buffer(f"teacher_{i}", parameter.detach().clone())
            self.register_buffer(f"average_{i}", parameter.detach().clone())

    def triples(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for i, parameter in enumerate(self.student):
            yield parameter, self.get_buffer(f"teacher_{i}"), self.get_buffer(f"average_{i}")

    @contextmanager
    def _swapped(self, name: str) -> Iterator[None]:
        model, training = self._hidden[0], self._hidden[0].training
        self._exchange(name)
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._exchange(name)
            model.train(training)

    @torch.no_grad()
    def _exchange(self, name: str) -> None:
        """The model's tensors and the set's change places."""
        shards = self._shards[0]
        for i, parameter in enumerate(self.student):
            other = self.get_buffer(f"{name}_{i}")
            if shards is None:
                parameter.data, other.data = other.data, parameter.data
                continue
            held = parameter.detach().clone()  # FSDP gathers from storages that it knows
            parameter.copy_(other)
            other.copy_(held)
        if shards is not None:
            shards.regather()

    def teacher(self) -> AbstractContextManager[None]:
        """The model computes as the teacher: eval mode, no gradients."""
        return self._swapped("teacher")

    def average(self) -> AbstractContextManager[None]:
        """The model computes as (and is saved as) the running average."""
        return self._swapped("average")


def frozen_copy(module: nn.Module) -> nn.Module:
    """An eval-mode copy whose parameters take no gradient."""
    return copy.deepcopy(module).eval().requires_grad_(False)
