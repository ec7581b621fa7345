"""A distiller from options to a delivered student: say what will be trained, run the loop, validate,
write.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

from tokenizers import Tokenizer
from torch import nn

from harness.runs.wandb_log import start
from methods.training.data.corpus import MASK
from methods.training.loop.loop import Hooks, LossAt, train_loop
from methods.training.loop.ranks import leave
from methods.training.options import plain
from methods.training.students.deliver import deliver
from methods.training.students.estimate import capacity_of, describe, fit
from methods.training.students.student import Options, Student
from methods.training.validation import BLOCK_CAUSAL, FULL, D2FMode, Mode, require_jail, score, score_blocks


@dataclass(frozen=True)
class Trainer(Generic[Options]):
    """One distiller: its options, its loss given a student, and the decodings that its card reports."""

    name: str
    options: type[Options]
    build: Callable[[Student[Options]], LossAt]
    modes: tuple[Mode | D2FMode, ...] = ()

    def train(self, options: Options) -> Path:
        """Train a student and write it; returns its folder."""
        try:
            student = Student(options, self.name)
            if options.fit:
                resize(student)
            with student.ranks.first_alone():
                loss_at = self.build(student)
            return train(student, loss_at, self.modes)
        finally:
            leave()


def resize(student: Student[Any]) -> None:
    """Batches as large as the first rank's device holds by the estimate; the step stays as it is."""
    ranks = student.ranks
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = ranks.totals([capacity_of(student.device, here) if ranks.first else 0.0])[0]
    student.resize(*fit(student, room))


def train(student: Student[Any], loss_at: LossAt, modes: tuple[Mode | D2FMode, ...]) -> Path:
    """Say what is about to be trained, run the loop, write the averaged student and its card; returns its
    folder.
    """
    options, folder = student.options, student.options.work / f"{student.method}-{student.key()}"
    ranks = student.ranks
    if ranks.first:
        print(describe(student), flush=True)
    if options.validation_items or options.validate_every:
        if tokenizer_of(student, modes) is not None:
            require_jail()
        elif ranks.first:
            print(
                f"no validation: its problems are nano's, and {options.model} has another vocabulary",
                flush=True,
            )
    state = nn.ModuleList([student.rounds, *(group for group, _ in student.groups[1:])])
    optimisers = student.optimisers()
    if student.shards is not None:
        loss_at = partial(student.shards.loss, loss_at)

    def check(_: int) -> dict[str, float]:
        with student.whole():
            return ranks.on_first(lambda: validate(student, modes, 64), {})

    watched = options.wandb and ranks.first
    watch = start(f"train-{student.method}", plain(options), "train") if watched else None
    hooks = Hooks(student.rounds.begin, watch and watch.log, student.take_tokens, ranks)
    student.net.train()
    seconds = train_loop(
        student.method, state, optimisers, loss_at, options.loop, folder, check, options.validate_every, hooks
    )
    student.rounds.finish()

    def finish() -> None:
        deliver(student, seconds, validate(student, modes, options.validation_items))

    with student.rounds.average(), student.whole():
        ranks.on_first(finish, None)
    if watch is not None:
        watch.finish()
    return options.output


def tokenizer_of(student: Student[Any], modes: tuple[Mode | D2FMode, ...]) -> Tokenizer | None:
    """The tokenizer to validate with; None where there is nothing to decode or the model has another
    vocabulary than nano's.
    """
    path = student.folder / "tokenizer.json"
    if not (modes or student.options.blocks) or not path.exists():
        return None
    tokenizer = Tokenizer.from_file(str(path))
    return tokenizer if tokenizer.token_to_id(MASK) == student.mask_id else None


def validate(student: Student[Any], modes: tuple[Mode | D2FMode, ...], count: int) -> dict[str, float]:
    """Greedy pass@1 and forwards on ``count`` validation items per suite; nothing for a model with another
    tokenizer.
    """
    tokenizer = tokenizer_of(student, modes)
    if not count or tokenizer is None:
        return {}
    print(f"{student.method}: answering {count} validation problems of each suite", flush=True)
    student.net.eval()
    if student.options.blocks:
        figures = score_blocks(
            student.model, tokenizer, BLOCK_CAUSAL if student.method == "d2f" else FULL, count
        )
    else:
        figures = score(student.model, tokenizer, modes, count)
    student.net.train()
    return figures
