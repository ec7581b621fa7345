"""Estimators of log-probabilities: bias and variance on a language whose probabilities are known,
independence of batch and seed.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from harness.measuring.clock import Decoded
from methods.training.grpo.estimators import (
    ESTIMATORS,
    Answer,
    Coupled,
    EstimatorError,
    OneStep,
    SequenceELBO,
    Trace,
    make_estimator,
)
from methods.training.grpo.policy import Policy, PolicyOptions
from methods.training.grpo.rollout import scored_places
from methods.training.grpo.scoring import AnswerBatch, accumulate, chunks, estimate
from tests.grpo import conditionals, joint, tiny_checkpoint, toy_estimates

CPU = torch.device("cpu")
TEXT, ORDER = [2, 0, 1], [1, 0, 2]
COUNT = 6_000


def truth() -> float:
    return float(joint()[tuple(TEXT)].log())


def marginals() -> float:
    return float(sum(conditionals()[3, 3, 3, k, TEXT[k]] for k in range(3)))


def test_espo_is_unbiased_and_its_spread_shrinks_with_more_pairs() -> None:
    single = toy_estimates(SequenceELBO(1), TEXT, ORDER, COUNT).sum(1)
    double = toy_estimates(SequenceELBO(2), TEXT, ORDER, COUNT).sum(1)
    error = float(single.std()) / COUNT**0.5
    assert error > 0
    assert abs(float(single.mean()) - truth()) < 4 * error
    assert float(double.var() / single.var()) == pytest.approx(0.5, abs=0.05)


def test_one_step_has_no_variance_and_the_bias_of_the_marginals() -> None:
    found = toy_estimates(OneStep(prompt_rate=0.0), TEXT, ORDER, 50).sum(1)
    assert float(found.std()) < 1e-6
    assert float(found.mean()) == pytest.approx(marginals(), abs=1e-5)
    assert abs(marginals() - truth()) > 0.1


def test_trace_of_one_token_per_step_is_exact() -> None:
    found = toy_estimates(Trace(), TEXT, ORDER, 50).sum(1)
    assert len(found.unique()) == 1
    assert float(found.mean()) == pytest.approx(truth(), abs=1e-5)


def test_trace_with_steps_merged_is_the_probability_of_decoding_them_at_once() -> None:
    merged = toy_estimates(Trace(merge=2), TEXT, ORDER, 2).sum(1)
    parallel = toy_estimates(Trace(), TEXT, [0, 0, 1], 2).sum(1)
    assert torch.allclose(merged, parallel)
    assert abs(float(parallel[0]) - truth()) > 1e-3


def test_coupled_weighs_tokens_by_three_halves_on_average() -> None:
    """Expectation by quadrature over t and all masks, so the estimate's bias is known exactly."""
    found = toy_estimates(Coupled(), TEXT, ORDER, COUNT)
    expected = torch.zeros(3)
    times = torch.linspace(0.2, 0.8, 2001)
    for mask in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3):
        chance = torch.where(mask[:, None] == 1, times, 1 - times).prod(0)
        for k in range(3):
            view = tuple(3 if mask[j] == mask[k] else TEXT[j] for j in range(3))
            weight = 0.5 / (times if mask[k] else 1 - times)
            expected[k] += float((chance * weight).mean()) * float(conditionals()[(*view, k, TEXT[k])])
    expected += 0.5 * torch.tensor([float(conditionals()[3, 3, 3, k, TEXT[k]]) for k in range(3)])
    error = found.std(0) / COUNT**0.5
    assert bool((error > 0).all())
    assert bool(((found.mean(0) - expected).abs() < 4 * error).all())
    # Of independent tokens the estimate would be 1.5 times the truth; here dependence moves it, but not by
    # half.
    assert 1.2 < float(found.sum(1).mean()) / truth() < 1.8


def test_coupled_looks_at_every_token_once_in_full_mask_and_once_in_a_half() -> None:
    answer = Answer(2, torch.tensor([True] * 6 + [False] * 2), torch.zeros(8, dtype=torch.long), 5)
    full, half, other = Coupled().views(answer, 0)
    assert bool(full.hidden.all())
    assert bool((half.hidden[:6] ^ other.hidden[:6]).all())
    assert bool((half.hidden[6:] & other.hidden[6:]).all())
    assert torch.allclose(
        1 / (2 * half.weight[half.weight > 0][:1]) + 1 / (2 * other.weight[other.weight > 0][:1]),
        torch.ones(1),
    )
    assert not (full.weight[6:] + half.weight[6:] + other.weight[6:]).any()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy(PolicyOptions(tiny_checkpoint(tmp_path_factory.mktemp("tiny")), snapshot=True), CPU)


def answers(count: int, canvas: int = 12) -> AnswerBatch:
    random = torch.Generator().manual_seed(1)
    outputs = torch.randint(5, 700, (count, canvas), generator=random)
    prompts = torch.randint(5, 700, (count, 9), generator=random)
    scored = torch.arange(canvas)[None] < torch.randint(2, canvas + 1, (count, 1), generator=random)
    steps = torch.arange(canvas).expand(count, canvas) // 2
    return AnswerBatch(
        prompts,
        outputs,
        [Answer(4 + index % 6, scored[index], steps[index], 100 + index) for index in range(count)],
    )


def scored(policy: Policy, batch: AnswerBatch, name: str, rows: int, inner: int = 0) -> Tensor:
    parts = chunks(batch, make_estimator(name), inner, int(policy.model.spec.mask_id or 0), rows, CPU)
    return estimate(policy.score, parts, batch.outputs.shape)[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_do_not_depend_on_the_forward_size_the_batch_or_global_random_numbers(
    policy: Policy, name: str
) -> None:
    batch = answers(7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = scored(policy, batch, name, rows=64)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.allclose(whole, scored(policy, batch, name, rows=2), atol=1e-4)
    part = AnswerBatch(batch.prompts[2:4], batch.outputs[2:4], batch.answers[2:4])
    assert torch.allclose(whole[2:4], scored(policy, part, name, rows=64), atol=1e-4)


@pytest.mark.parametrize("name", ["coupled", "one_step", "espo"])
def test_masks_are_fresh_in_every_inner_step(policy: Policy, name: str) -> None:
    assert not torch.allclose(
        scored(policy, answers(4), name, 64), scored(policy, answers(4), name, 64, inner=1), atol=1e-3
    )


def test_the_same_weights_and_masks_give_the_same_estimate_to_the_bit(policy: Policy) -> None:
    batch = answers(5)
    old, new = scored(policy, batch, "coupled", 64), scored(policy, batch, "coupled", 64)
    with policy.reference():
        reference = scored(policy, batch, "coupled", 64)
    assert torch.equal((new - old).exp(), torch.ones_like(old))
    assert torch.equal(reference, old)


@pytest.mark.parametrize("rows", [3, 64])
def test_gradient_in_pieces_is_the_gradient_of_the_whole(policy: Policy, rows: int) -> None:
    batch, weight = answers(4), policy.model.lm_head.weight
    parts = chunks(batch, Coupled(), 0, int(policy.model.spec.mask_id or 0), rows, CPU)
    gradient = torch.randn(batch.outputs.shape, generator=torch.Generator().manual_seed(2))
    accumulate(policy.score, parts, gradient)
    assert weight.grad is not None
    analytic, direction = float(weight.grad.norm()), weight.grad / weight.grad.norm()
    policy.model.zero_grad()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * 1e-2)
        values.append(float((estimate(policy.score, parts, batch.outputs.shape)[0] * gradient).sum()))
        with torch.no_grad():
            weight.sub_(direction, alpha=sign * 1e-2)
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(analytic, rel=0.02)


def test_adapter_reference_is_the_model_it_started_from(tmp_path: Path) -> None:
    folder, batch = tiny_checkpoint(tmp_path), answers(3)
    plain = Policy(PolicyOptions(folder, snapshot=False, rank=0), CPU)
    adapted = Policy(PolicyOptions(folder, snapshot=False, rank=4), CPU)
    with torch.no_grad():
        for parameter in adapted.trained:
            parameter.add_(0.05)
    moved = scored(adapted, batch, "coupled", 64)
    with adapted.reference():
        assert torch.equal(scored(adapted, batch, "coupled", 64), scored(plain, batch, "coupled", 64))
    assert not torch.allclose(moved, scored(plain, batch, "coupled", 64), atol=1e-3)


def test_unknown_estimator_is_named() -> None:
    with pytest.raises(
        EstimatorError, match="--estimator dpo is unknown; use coupled, one_step, espo, trace"
    ):
        make_estimator("dpo")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_answer_ends_at_the_first_of_several_end_ids(name: str) -> None:
    output, written = [4, 9, 4, 7, 4, 9], [0, 1, 2, 3, 4, 5]
    row = cast(Decoded, SimpleNamespace(output=output, step_map=written, spans=[(0, 6)]))
    for ends, length in (((7, 9), 2), ((7,), 4), ((5,), 6)):
        scored = torch.tensor(scored_places(row, ends))
        assert scored.tolist() == [True] * length + [False] * (6 - length)
        views = make_estimator(name).views(Answer(3, scored, torch.tensor(written), 1), 0)
        weights = torch.stack([view.weight for view in views]).sum(0)
        assert torch.equal(weights > 0, scored)
        behind = torch.stack([view.hidden for view in views])[:, length:]
        assert behind.all(), "what was written behind the end is masked in every view"
