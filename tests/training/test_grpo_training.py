"""GRPO on verl: the loss really clips where it should, the loop learns, resumes to the bit, stops on
collapse, runs dry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("verl", reason="reinforcement learning needs the extra 'train' (verl)")

from methods.training.grpo import fit as loop
from methods.training.grpo import run
from methods.training.grpo.estimators import Coupled, SequenceELBO
from methods.training.grpo.objective import Loss, Objective, Targets, advantages, informative, policy_loss
from methods.training.grpo.options import GRPOOptions, OptionsError
from tests.grpo import tiny_checkpoint

REWARD = """
def reward(task, text):
    return {"even": sum(ord(letter) % 2 == 0 for letter in text) / max(1, len(text))}
"""


def loss_of(
    shift: float,
    advantage: float,
    epsilon: float,
    beta: float = 0.0,
    estimator: Any = Coupled,
    loss_agg: str = "token-mean",
) -> tuple[Loss, Tensor]:
    """Loss and gradient of two answers of three tokens whose log-probabilities moved by ``shift``."""
    old = torch.full((2, 3), -1.0)
    new = (old + shift).requires_grad_(True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    spread = torch.full((2, 3), advantage)
    count = 2 if estimator is SequenceELBO else 4
    loss = policy_loss(
        new,
        Targets(old, old if beta else None, spread, mask, count, 1),
        Objective(epsilon, beta, 2, loss_agg),
        estimator(),
    )
    loss.value.backward()
    loss = replace(loss, value=loss.value.detach())
    assert new.grad is not None
    return loss, new.grad


@pytest.mark.parametrize("epsilon", [0.2, 0.5])
def test_the_clip_is_where_it_is_configured(epsilon: float) -> None:
    for advantage, edge in ((1.0, math.log(1 + epsilon)), (-1.0, math.log(1 - epsilon))):
        outward = math.copysign(0.01, advantage)
        inside, gradient = loss_of(edge - outward, advantage, epsilon)
        assert float(gradient.abs().sum()) > 0
        assert float(inside.clipped.sum()) == 0
        outside, gradient = loss_of(edge + outward, advantage, epsilon)
        assert float(gradient.abs().sum()) == 0
        assert float(outside.clipped.sum()) == 4
        assert float(outside.value) == pytest.approx(
            -advantage * (1 + math.copysign(epsilon, advantage)), rel=1e-5
        )


def test_no_second_clip_for_bad_answers_that_became_likelier() -> None:
    loss, gradient = loss_of(math.log(50.0), -1.0, 0.5)
    assert float(loss.value) == pytest.approx(50.0, rel=1e-4)
    assert float(gradient.abs().sum()) > 0


def test_loss_is_the_mean_over_all_tokens_of_all_workers() -> None:
    loss, gradient = loss_of(0.0, 2.0, 0.5)
    assert float(loss.value) == pytest.approx(-2.0)
    assert torch.allclose(gradient, torch.tensor([[-0.5, -0.5, -0.5], [-0.5, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("loss_agg", "long", "short"),
    [
        ("token-mean", 1 / 4, 1 / 4),
        ("seq-mean-token-mean", 1 / 6, 1 / 2),
        ("seq-mean-token-sum-norm", 1 / 6, 1 / 6),
    ],
)
def test_a_token_counts_by_the_length_of_its_answer_as_asked(
    loss_agg: str, long: float, short: float
) -> None:
    _, gradient = loss_of(0.0, 2.0, 0.5, loss_agg=loss_agg)
    assert torch.allclose(gradient, -2 * torch.tensor([[long] * 3, [short, 0.0, 0.0]]))


def test_penalties() -> None:
    token, _ = loss_of(0.3, 0.0, 0.5, beta=1.0)
    assert float(token.value) == pytest.approx(math.exp(-0.3) + 0.3 - 1, rel=1e-4)
    sequence, _ = loss_of(0.3, 0.0, 0.5, beta=1.0, estimator=SequenceELBO)
    # (sum of differences)^2 / (2 L), for L = 3 and L = 1, mean of the two.
    assert float(sequence.value) == pytest.approx(((0.9**2) / 6 + (0.3**2) / 2) / 2, rel=1e-4)
    assert torch.allclose(sequence.ratio, torch.full((2,), math.exp(0.3)))


def test_advantages_within_groups() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 5.0, 5.0, 5.0]), list("aaabbb")
    assert torch.allclose(advantages(rewards, groups, "leave_one_out")[:3], torch.tensor([1.0, -0.5, -0.5]))
    assert torch.allclose(advantages(rewards, groups, "mean")[:3], torch.tensor([2 / 3, -1 / 3, -1 / 3]))
    assert float(advantages(rewards, groups, "standardised")[:3].std()) == pytest.approx(1.0, abs=1e-4)
    assert informative(rewards, groups).tolist() == [True] * 3 + [False] * 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def options(tmp_path: Path, tiny: Path) -> GRPOOptions:
    (tmp_path / "reward.py").write_text(REWARD)
    return GRPOOptions(
        model=str(tiny), suite="nano-gsm", output=tmp_path / "out", work=tmp_path / "work",
        settings={"temperature": 1.0}, canvas=6, prompts=2, group=6, steps=4, save_every=2, inner=2, lr=3e-3,
        clip=1.0, ray=False, reward=tmp_path / "reward.py",
    )  # fmt: skip


def rows_of(options: GRPOOptions) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (options.work / "log.jsonl").read_text().splitlines()]


def weights(options: GRPOOptions) -> dict[str, Tensor]:
    return torch.load(options.work / "checkpoint.pt", weights_only=True)["model"]


def test_the_loop_learns_and_a_shuffled_control_does_not(options: GRPOOptions) -> None:
    settings = {"temperature": 1.0, "tokens_per_step": 2}
    options = replace(
        options, steps=16, save_every=16, inner=1, prompts=4, group=8, lr=3e-2, beta=0.0, settings=settings
    )
    assert run.train(options) is None
    control = replace(
        options, shuffle_rewards=True, work=options.work / "control", output=options.output / "control"
    )
    run.train(control)
    learned, idle = ([row["reward"] for row in rows_of(one)] for one in (options, control))
    assert sum(learned[-4:]) / 4 > sum(learned[:4]) / 4 + 0.2
    assert sum(idle[-4:]) / 4 < sum(idle[:4]) / 4 + 0.1
    assert all(row["ratio"] == 1.0 for row in rows_of(options) if "ratio" in row)
    assert (options.work / "rewards.png").stat().st_size > 10_000
    shown = [json.loads(line) for line in (options.work / "rollouts.jsonl").read_text().splitlines()]
    assert len(shown) == 16 * 4 * 8
    assert {line["status"] for line in shown} == {"passed"}


def test_killed_and_resumed_equals_undisturbed(options: GRPOOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(options, work=options.work / "whole")
    run.train(whole)
    monkeypatch.setattr(loop.Collapse, "add", _killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        run.train(options)
    monkeypatch.undo()
    assert len(rows_of(options)) == 3
    run.train(options)
    one, other = weights(whole), weights(options)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["reward"] for row in rows_of(whole)] == [row["reward"] for row in rows_of(options)]
    card = json.loads((options.work / "card.json").read_text(), parse_constant=pytest.fail)
    assert card["settings"]["max_kl"] is None
    card["settings"]["max_kl"] = math.inf  # as earlier versions wrote it, without what has come since
    del card["settings"]["resample"]
    (options.work / "card.json").write_text(json.dumps(card))
    run.train(options)
    with pytest.raises(OptionsError, match=r"holds a run with lr 0.003, not 0.1: take another folder"):
        run.train(replace(options, lr=0.1))


def _killed_at(step: int) -> Callable[..., None]:
    def add(self: loop.Collapse, row: dict[str, Any]) -> None:
        self.reasons.append("")
        if len(self.reasons) == step:
            raise KeyboardInterrupt

    return add


RARE = """
def reward(task, text):
    return {"word": float("e" in text) if len(task["prompt"]) % 2 else 1.0}
"""


def test_groups_without_variance_are_replaced_within_the_bound(options: GRPOOptions) -> None:
    assert options.reward is not None
    options.reward.write_text(RARE)
    options = replace(options, steps=2, prompts=4, inner=1, resample=3)
    run.train(options)
    rows, size = rows_of(options), options.prompts * options.group
    shown = [json.loads(line) for line in (options.work / "rollouts.jsonl").read_text().splitlines()]
    for row in rows:
        answers = [line for line in shown if line["step"] == row["step"]]
        assert len(answers) == size + row["extra_rollouts"] <= size * (1 + options.resample)
        alike = sum(
            len({line["reward"] for line in answers[start : start + options.group]}) == 1
            for start in range(0, len(answers), options.group)
        )
        assert row["groups_without_variance"] == alike
        own = [line["reward"] for line in answers[:size]]
        assert row["reward"] == pytest.approx(sum(own) / size, abs=1e-3)
    assert any(row["extra_rollouts"] for row in rows)
    plain = replace(options, resample=0, work=options.work / "plain", output=options.output / "plain")
    run.train(plain)
    assert rows_of(plain)[0]["reward"] == rows[0]["reward"], "the step's own answers stay the same"
    assert "extra_rollouts" not in rows_of(plain)[0]


def test_the_result_does_not_depend_on_the_forward_size(options: GRPOOptions) -> None:
    run.train(replace(options, steps=2))
    small = replace(options, steps=2, rows=5, work=options.work / "small")
    run.train(small)
    one, other = weights(options), weights(small)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-4


def test_collapse_stops_the_run_with_a_message(options: GRPOOptions) -> None:
    stopped = run.train(replace(options, min_entropy=100.0, patience=2, steps=10))
    assert stopped is not None
    assert "is below 100 nats (min_entropy) for 2 steps" in stopped
    assert len(rows_of(options)) == 2
    assert (options.output / "model.safetensors").exists()


def test_any_decoder_rolls_out_and_an_adapter_comes_out(options: GRPOOptions) -> None:
    settings = {"temperature": 1.0, "threshold": 0.0005, "block_length": 3}
    run.train(
        replace(options, method="fast_dllm", settings=settings, rank=4, estimator="trace", steps=1, beta=0.0)
    )
    row = rows_of(options)[0]
    assert row["nfe"] < 6
    assert (options.output / "adapter_model.safetensors").exists()
    from harness.engine.loader import load

    assert load(options.model, adapter=str(options.output)).adapter == str(options.output)


def test_dream_recipe_runs_dry_on_two_layers(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {
        "prompt": "Write a function add that returns the sum of its two arguments, in Python.",
        "entry_point": "add",
    }
    (tmp_path / "train.jsonl").write_text(json.dumps({**problem, "tests": ["assert add(1, 2) == 3"]}) + "\n")
    from methods.training.grpo.options import load_options

    places = {"output": tmp_path / "out", "work": tmp_path / "work", "model": str(tiny)}
    options = load_options(
        "dream7b-coupled", str(tmp_path / "train.jsonl"), **places, canvas=16, settings={"steps": 16}
    )
    assert (options.inner, options.epsilon, options.sync_every, options.weights["tests"]) == (2, 0.5, 64, 2.0)
    run.dry_run(options)
    told = capsys.readouterr().out
    for line in ("here, 1 worker(s) on", "1 x GPU:", "2 x GPU:", "8 x GPU:", "dry run: one step"):
        assert line in told
    assert not (tmp_path / "out").exists()
