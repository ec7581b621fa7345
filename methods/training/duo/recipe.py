"""Genuine DUO on a small uniform-state model: curriculum, plain training, then consistency rounds.

Task: the language of ``methods.training.duo.words``. Written are the base and the distilled model, both
checkpoints for the decoder ``duo``, and card.json with validity and entropy of samples at N steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.duo.model import Denoiser, denoiser_spec, save_denoiser
from methods.duo.sampling import Tail, sample
from methods.duo.usdm import LogLinear, antithetic_times, nelbo_loss
from methods.training.duo.consistency import consistency_loss
from methods.training.duo.curriculum import Temperature, curriculum_loss
from methods.training.duo.words import Language
from methods.training.loop.loop import (
    Counted,
    Hooks,
    LoopOptions,
    LossAt,
    generator_for,
    train_loop,
)
from methods.training.loop.ranks import Ranks, join, leave
from methods.training.loop.rounds import Rounds, RoundSchedule
from methods.training.losses.dcd import Direction
from methods.training.losses.integral_cache import IntegralCache, cached, window
from methods.training.options import plain
from methods.training.students.student import antithetic

CPU = torch.device("cpu")
TAILS: tuple[Tail, ...] = ("greedy_code", "ancestral")


@dataclass(frozen=True)
class DuoOptions:
    """``soft_steps`` of curriculum, then discrete training up to ``base_steps``, then the rounds.

    The curriculum's temperature is 10^``log_tau``; ``top`` > 0 draws that many Gaussians per position.

    ``words`` per text; ``batch`` texts, of which ``accumulate`` batches make a step; ``decay`` of the
    delivered average; ``evaluate`` lists the steps N at which ``samples`` texts are judged.
    """

    output: Path
    work: Path
    seed: int = 0
    threads: int = 1
    letters: int = 10
    words: int = 5
    hidden: int = 64
    layers: int = 2
    batch: int = 128
    accumulate: int = 1
    base_steps: int = 3000
    soft_steps: int = 1000
    log_tau: float = -3.0
    top: int = 0
    base_lr: float = 2e-3
    lr: float = 5e-4
    warmup: int = 50
    decay: float = 0.999
    direction: Direction = "reverse"
    samples: int = 1000
    evaluate: tuple[int, ...] = (1, 2, 4, 8, 16)
    save_every: int = 100
    first: float = 1 / 32
    every: int = 200
    rounds: int = 5

    @property
    def schedule(self) -> RoundSchedule:
        return RoundSchedule(self.first, self.every, self.rounds)


class DuoData:
    """Data and the two integral caches: alpha in [0.95, 0.05] for the curriculum, [0.999, 0.001] for the
    rounds.
    """

    def __init__(self, options: DuoOptions) -> None:
        self.options, self.language = options, Language(letters=options.letters)
        self.soft = self._cache(0.95, 0.05)
        self.wide = self._cache(0.999, 0.001)
        self.temperature = Temperature(options.log_tau, options.log_tau, 0, options.soft_steps)

    def _cache(self, high: float, low: float) -> IntegralCache:
        return cached(
            self.options.work, self.options.letters, *window(self.options.letters, high, low), points=20_000
        )

    def batch(self, number: int, stream: int) -> tuple[Tensor, torch.Generator]:
        rng = generator_for(self.options.seed, number, stream)
        x = torch.from_numpy(self.language.sample(rng, self.options.batch, self.options.words))
        return x, torch.Generator().manual_seed(int(rng.integers(2**62)))

    def base_loss(self, model: Denoiser, number: int) -> Tensor:
        """Curriculum while it lasts, the bound itself afterwards."""
        x, random = self.batch(number, 1)
        step = number // self.options.accumulate
        if step < self.options.soft_steps:
            t = antithetic(len(x), random)
            return curriculum_loss(
                model, x, t, self.soft, self.temperature.tau(step), random, self.options.top
            ).mean()
        t = antithetic_times(len(x), random)
        return nelbo_loss(
            lambda z, alpha: model(z, alpha).double(), x, t, LogLinear(), self.options.letters, random
        ).mean()

    def round_loss(self, rounds: Rounds, number: int) -> Tensor:
        dt = self.options.schedule.dt(number // self.options.accumulate)
        x, random = self.batch(number, 2)
        u = antithetic(len(x), random)
        return consistency_loss(
            rounds.student, rounds.teacher, x, u, dt, self.wide, self.options.direction, random
        )

    def judge(self, model: Any) -> list[dict[str, Any]]:
        """Quality of samples by N and tail."""
        options, rows = self.options, []
        for steps in options.evaluate:
            for tail in TAILS:
                random = torch.Generator().manual_seed(options.seed)
                ids = sample(
                    model, (options.samples, 3 * options.words), options.letters, steps, tail, random
                )
                rows.append({"steps": steps, "tail": tail, **vars(self.language.judge(np.asarray(ids)))})
        return rows


def train_duo(options: DuoOptions) -> Path:
    """Train base and student; writes ``output``/base and ``output``/student with their card. Returns
    ``output``.
    """
    torch.set_num_threads(options.threads)
    join(CPU)
    ranks = Ranks()
    ranks.check(options.accumulate, {"batch": options.batch})
    try:
        return _train_duo(options, ranks)
    finally:
        leave()


def _train_duo(options: DuoOptions, ranks: Ranks) -> Path:
    with ranks.first_alone():
        task = DuoData(options)
    model = Denoiser(denoiser_spec(options.letters, options.hidden, options.layers), options.seed)
    steps = LoopOptions(options.base_steps, options.warmup, 0.3, 1.0, options.save_every)
    seconds = _loop(options, ranks, "base", model, partial(task.base_loss, model), options.base_lr, steps)
    judged = {}
    model.eval()
    if ranks.first:
        save_denoiser(options.output / "base", model, eos=0)
        judged["base"] = task.judge(model)
    rounds = Rounds(model, options.schedule, options.decay)
    steps = LoopOptions(options.schedule.steps, options.warmup, 0.0, 1.0, options.save_every)
    loss = partial(task.round_loss, rounds)
    seconds += _loop(options, ranks, "rounds", rounds, loss, options.lr, steps, rounds.begin)
    rounds.finish()
    student = rounds.average
    assert isinstance(student, Denoiser)
    if ranks.first:
        save_denoiser(options.output / "student", student, eos=0)
        judged["student"] = task.judge(student)
        card = {
            "settings": plain(options),
            "seconds": round(seconds, 1),
            "ranks": ranks.count,
            "quality": judged,
        }
        (options.output / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    ranks.totals([0.0])
    return options.output


def _loop(
    options: DuoOptions,
    ranks: Ranks,
    name: str,
    model: Any,
    loss: LossAt,
    lr: float,
    steps: LoopOptions,
    before: Callable[[int], object] | None = None,
) -> float:
    trained = model.student if isinstance(model, Rounds) else model
    adam = torch.optim.AdamW(trained.parameters(), lr=lr, weight_decay=0.0)
    counted = Counted(loss, 3 * options.words * options.batch)
    hooks = Hooks(before, tokens=counted.take, ranks=ranks)
    steps = replace(steps, accumulate=options.accumulate)
    return train_loop(f"duo {name}", model, [adam], counted, steps, options.work / f"duo-{name}", hooks=hooks)
