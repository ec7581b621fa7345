"""Losses of whole recipes, and GRPO's worker, on a stand-in for a GPU: the values of the CPU.

In float32, where only the order of sums differs: one part in 10,000.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.model.spec import ModelSpec
from methods.duo.model import Denoiser, denoiser_spec
from methods.duo.sampling import Tail, sample
from methods.training import nano
from methods.training.data import corpus, corruption
from methods.training.data.batches import Stream
from methods.training.duo.recipe import DuoData, DuoOptions
from methods.training.grpo.estimators import ESTIMATORS, Answer, make_estimator
from methods.training.grpo.policy import Policy, PolicyOptions
from methods.training.grpo.rollout import RolloutOptions, Rollouts, roll_out
from methods.training.grpo.scoring import AnswerBatch, accumulate, chunks, estimate
from methods.training.loop.rounds import Rounds
from tests.card import CARD, Card
from tests.grpo import tiny_checkpoint

# torch warns where it believes the stand-in to be empty.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
CPU = torch.device("cpu")
TOLERANCE = 1e-4
TINY = ModelSpec("qwen2", 64, 32, 64, 1, 2, 1, 16, qkv_bias=True)

Loss = Callable[[torch.device], Tensor]


class DataOn(DuoData):
    """DUO's batches on a device."""

    def __init__(self, options: DuoOptions, device: torch.device) -> None:
        super().__init__(options)
        self.device = device

    def batch(self, number: int, stream: int) -> tuple[Tensor, torch.Generator]:
        x, _ = super().batch(number, stream)
        return x.to(self.device), torch.Generator(self.device).manual_seed(number)


def gradient_of(loss: Tensor, model: nn.Module) -> float:
    loss.backward()
    parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert {part.device.type for part in (loss, *parts)} == {loss.device.type}
    return sum(float(part.double().square().sum()) for part in parts)


def equal_on_both(figures: Callable[[torch.device], list[float]]) -> None:
    with Card():
        there = figures(CARD)
    assert all(number != 0 for number in there)
    assert there == pytest.approx(figures(CPU), rel=TOLERANCE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> DuoOptions:
    folder = tmp_path_factory.mktemp("duo")
    return DuoOptions(folder, folder, batch=8, soft_steps=1, base_steps=2, letters=6, hidden=16, layers=1)


def denoiser(options: DuoOptions, device: torch.device) -> Denoiser:
    return Denoiser(denoiser_spec(options.letters, options.hidden, options.layers), 0).to(device)


@pytest.mark.parametrize("top", [0, 2])
def test_uniform_state_losses(duo: DuoOptions, top: int) -> None:
    """Curriculum with all or some Gaussians, the bound, and a round of consistency."""
    options = replace(duo, top=top)

    def figures(device: torch.device) -> list[float]:
        task, found = DataOn(options, device), []
        for step in (0, 1):
            model = denoiser(options, device)
            loss = task.base_loss(model, step)
            found += [float(loss.detach()), gradient_of(loss, model)]
        rounds = Rounds(denoiser(options, device), options.schedule)
        loss = task.round_loss(rounds, 0)
        return [*found, float(loss.detach()), gradient_of(loss, rounds.student)]

    equal_on_both(figures)


@pytest.mark.parametrize("tail", ["greedy_code", "greedy_posterior", "ancestral"])
def test_uniform_state_samples(duo: DuoOptions, tail: Tail) -> None:
    def ids(device: torch.device) -> list[list[int]]:
        random = torch.Generator(device).manual_seed(1)
        return sample(denoiser(duo, device), (3, 5), duo.letters, 4, tail, random, kappa=0.5).tolist()

    with Card():
        there = ids(CARD)
    assert there == ids(CPU)


def test_autoregressive_and_masked_diffusion_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nano, corruption):
        monkeypatch.setattr(module, "fast_products", nullcontext)
    rng = np.random.default_rng(0)
    pool = corpus.Pool(rng.integers(3, 64, 160), np.arange(0, 161, 16), np.full(10, 6))
    stream = Stream(pool, 0, 128, 1, shortest=16)

    def figures(device: torch.device) -> list[float]:
        found = []
        for loss_of in (
            lambda model: nano.autoregressive_loss(model, stream.batch(0)),
            lambda model: corruption.diffusion_loss(
                model, corruption.corrupt(stream, 0, 2, corruption.Corruption(canvas=8))
            ),
        ):
            model = nano.new_model(TINY, 0).to(device)
            loss = loss_of(model)
            found += [float(loss.detach()), gradient_of(loss, model)]
        return found

    equal_on_both(figures)


def answers_of(found: Rollouts, prompts: list[list[int]]) -> AnswerBatch:
    longest = max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    rows = zip(prompts, found.scored, found.steps, strict=True)
    answers = [Answer(len(prompt), scored, steps, 5) for prompt, scored, steps in rows]
    return AnswerBatch(ids, found.outputs, answers)


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "adapter"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_grpo_answers_scores_and_steps(name: str, rank: int, tiny: Path, tmp_path: Path) -> None:
    """What a worker does, two steps of it, with a fixed gradient in the loss's place: that one is made on the
    host, of the estimates.
    """
    prompts, estimator = [[5, 6, 7, 8], [9, 10, 11]], make_estimator(name, merge=2)
    rollout = RolloutOptions(tiny, "vanilla", {"temperature": 1.0, "tokens_per_step": 2}, 6, 2, 0)
    on_cpu = Policy(PolicyOptions(tiny, rank), CPU).backbone()
    batch = answers_of(roll_out(rollout, on_cpu, prompts, [0, 1]), prompts)

    def figures(device: torch.device) -> list[float]:
        policy, found = Policy(PolicyOptions(tiny, rank), device), []
        optimiser = torch.optim.AdamW(policy.trained, lr=1e-3)
        assert roll_out(rollout, policy.backbone(), prompts, [0, 1]).status == ["ok", "ok"]
        for inner in range(2):
            parts = chunks(batch, estimator, inner, int(policy.model.spec.mask_id or 0), 3, device)
            with policy.reference():
                reference = estimate(policy.score, parts, batch.outputs.shape)[0]
            new, entropy = estimate(policy.score, parts, batch.outputs.shape)
            accumulate(policy.score, parts, torch.where(new < 0, 1.0, 0.0))
            norm = torch.nn.utils.clip_grad_norm_(policy.trained, 0.2)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            policy.save(tmp_path / "state.pt", optimiser, inner + 1, 0.0, 0)
            found += [float(part) for part in (reference.sum(), new.sum(), entropy.sum(), norm)]
        assert policy.load(tmp_path / "state.pt", optimiser, 0) == (2, 0.0)
        policy.sync_reference()
        policy.export(tmp_path / device.type, 0)
        return found

    equal_on_both(figures)
