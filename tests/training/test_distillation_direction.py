"""Does distillation go where theory says? A masked model of a small language, trained here (test 19).

Reverse KL must make few-step samples better than the base model's, forward KL must not: its optimum is the
teacher. The language, the network (two layers of 64) and the rounds (steps 1/32 to 1/2) are the published
toy's; training is shorter, because two cores have a minute for it: 700 base steps instead of 3000, rounds of
40 steps at 1e-3 instead of 200 at 5e-4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.duo.words import Language, Quality
from methods.training.loop.rounds import Rounds, RoundSchedule
from methods.training.losses import dcd, masks, sdtt
from tests.distillation import seeded

LETTERS, MASK, WORDS, ROWS = 10, 10, 5, 32
LANGUAGE = Language(letters=LETTERS)
SAMPLES = 3000


def noise(one: Quality, other: Quality) -> float:
    """Three standard errors of the difference of two shares of valid words."""
    return 3 * sum(share * (1 - share) / (SAMPLES * WORDS) for share in (one.words, other.words)) ** 0.5


def log_probs(model: nn.Module, z: Tensor) -> Tensor:
    return masks.token_log_probs(model(z), MASK)


def texts(stream: int, step: int) -> Tensor:
    return torch.from_numpy(LANGUAGE.sample(np.random.default_rng([stream, step]), ROWS, WORDS))


def optimise(
    model: nn.Module, loss_at: Callable[[int], Tensor], steps: int, rate: float, decay: bool
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.99))
    for step in range(steps):
        fall = min(1.0, (steps - step) / (0.3 * steps)) if decay else 1.0
        optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * fall if decay else rate
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


@cache
def base_model() -> Transformer:
    """Two layers, 700 steps of the masked-diffusion bound."""
    spec = ModelSpec("llada", LETTERS + 1, 64, 192, 2, 4, 4, 16, qkv_bias=False, shift=False)
    torch.manual_seed(0)
    model = Transformer(spec)
    model.matmul_attention = True
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=64**-0.5)

    def loss_at(step: int) -> Tensor:
        x, generator = texts(1, step), seeded(step)
        t = torch.rand(ROWS, 1, generator=generator) * 0.98 + 0.02
        masked = torch.rand(x.shape, generator=generator) < t
        nll = -log_probs(model, torch.where(masked, MASK, x)).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return (nll * masked / t).mean()

    optimise(model, loss_at, 700, 3e-3, decay=True)
    return model


def distil(method: str, direction: dcd.Direction, every: int = 40, rounds: int = 5) -> nn.Module:
    """The averaged student after rounds with steps 1/32 .. 1/2."""
    state = Rounds(copy.deepcopy(base_model()), RoundSchedule(1 / 32, every, rounds), decay=0.98)

    def sdtt_at(x: Tensor, u: Tensor, dt: float, generator: torch.Generator) -> Tensor:
        t = u.clamp(min=0.02)
        z = torch.where(
            torch.rand(x.shape, generator=generator, dtype=torch.float64) < t.unsqueeze(-1), MASK, x
        )
        targets = sdtt.sdtt_targets(lambda ids: log_probs(state.teacher, ids), z, t, dt, MASK, 2, generator)
        return sdtt.sdtt_loss(log_probs(state.student, z), targets, direction)

    def dcd_at(x: Tensor, u: Tensor, dt: float, generator: torch.Generator) -> Tensor:
        t = (u + dt).clamp(max=1.0)
        pair = masks.nested_pair(
            x, torch.ones_like(x, dtype=torch.bool), 1 - t, 1 - (t - dt), MASK, generator
        )
        with torch.no_grad():
            teacher = log_probs(state.teacher, pair.z_s)
        return dcd.masked_dcd_loss(
            log_probs(state.student, pair.z_t), teacher, x, pair, direction, shown="none"
        )

    def loss_at(step: int) -> Tensor:
        dt, generator = state.begin(step), seeded(step)
        u = torch.rand(ROWS, generator=generator, dtype=torch.float64)
        return (sdtt_at if method == "sdtt" else dcd_at)(texts(2, step), u, dt, generator)

    optimise(state.student, loss_at, every * rounds, 1e-3, decay=False)
    state.finish()
    return state.average


@torch.no_grad()
def few_step(model: nn.Module, steps: int) -> Quality:
    """Quality of ancestral samples in ``steps`` forward passes with a greedy tail."""
    generator = seeded(3)
    z = torch.full((SAMPLES, 3 * WORDS), MASK)
    for step in range(steps):
        # All rows are masked at first, and one tells what all get.
        log_p = log_probs(model, z if step else z[:1]).expand(len(z), -1, -1)
        hidden = z == MASK
        drawn = torch.multinomial(log_p.exp().flatten(0, 1), 1, generator=generator).view_as(z)
        shown = torch.rand(z.shape, generator=generator) < 1 / (steps - step)
        z = (
            torch.where(hidden & shown, drawn, z)
            if step < steps - 1
            else torch.where(hidden, log_p.argmax(-1), z)
        )
    assert not (z == MASK).any()
    return LANGUAGE.judge(z.numpy())


@cache
def base_quality(steps: int) -> Quality:
    return few_step(base_model(), steps)


@pytest.mark.parametrize("method", ["sdtt", "dcd"])
def test_19_reverse_kl_beats_the_base(method: str) -> None:
    student = distil(method, "reverse")
    for steps in (2, 4):
        made, base = few_step(student, steps), base_quality(steps)
        assert made.words > base.words + noise(made, base), (steps, made, base)
        assert made.entropy < base.entropy, "quality that costs no diversity is not what reverse KL does"


@pytest.mark.parametrize("method", ["sdtt", "dcd"])
def test_19_forward_kl_does_not(method: str) -> None:
    student = distil(method, "forward")
    for steps in (2, 4):
        made, base = few_step(student, steps), base_quality(steps)
        assert made.words < base.words + noise(made, base), (steps, made, base)


def test_19_training_on_without_a_teacher_does_not() -> None:
    student = copy.deepcopy(base_model())

    def loss_at(step: int) -> Tensor:
        x, generator = texts(2, step), seeded(step)
        t = torch.rand(ROWS, 1, generator=generator) * 0.98 + 0.02
        masked = torch.rand(x.shape, generator=generator) < t
        nll = -log_probs(student, torch.where(masked, MASK, x)).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return (nll * masked / t).mean()

    optimise(student, loss_at, 200, 1e-3, decay=False)
    for steps in (2, 4):
        made, base = few_step(student, steps), base_quality(steps)
        assert made.words < base.words + noise(made, base), (steps, made, base)
