"""Tails, accuracy under parallelism and lockstep, as few-step students meet them (tests 13, 17 and 20)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.decoding.forward import Forward
from harness.measuring.audit import finished_length
from methods import fewstep, lockstep
from methods.duo import sampling
from reports.aup import aup
from tests.distillation import golden, seeded
from tests.helpers import backbone, canvas

PROMPT, NEW = [5, 6, 7], 24


@pytest.mark.parametrize("alpha", ["0.99999", "0.875", "0.5"])
def test_13_argmax_of_the_prediction_is_not_that_of_the_posterior(alpha: str) -> None:
    entry = golden()["greedy_tail"]
    x, z = torch.tensor(entry["x_theta"], dtype=torch.float64), torch.tensor(0)
    level, case = torch.tensor(float(alpha), dtype=torch.float64), entry["values"][alpha]
    clean = sampling.posterior(x, z, torch.ones_like(level), level)
    np.testing.assert_allclose(clean.numpy(), case["posterior_alpha_s=1"], atol=1e-12)
    assert int(sampling.settle(x, z, level, "greedy_code")) == case["argmax_x_theta"] == 1
    if alpha != "0.5":  # at 0.5 tokens 0 and 1 are tied
        assert int(sampling.settle(x, z, level, "greedy_posterior")) == case["argmax_posterior"] == 0
    drawn = sampling.settle(x.expand(4000, 5), z.expand(4000), level.expand(4000), "ancestral", seeded())
    share = float((drawn == 0).double().mean())
    assert abs(share - case["posterior_alpha_s=1"][0]) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize("tail", ["greedy_code", "greedy_posterior", "ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_13_a_uniform_sampler_makes_one_pass_more_than_steps(steps: int, tail: sampling.Tail) -> None:
    levels: list[float] = []

    def denoise(z: Tensor, alpha: Tensor) -> Tensor:
        levels.append(float(alpha[0]))
        return torch.zeros(*z.shape, 6)

    ids = sampling.sample(denoise, (3, 4), 6, steps, tail, seeded())
    assert len(levels) == steps + 1
    assert ids.min() >= 0
    assert ids.max() < 6
    assert levels[0] == pytest.approx(1e-3)
    assert levels[-1] == pytest.approx(1 - 0.999e-5)
    assert levels == sorted(levels)


def test_13_psi_samplers_keep_the_marginals() -> None:
    """With the exact prediction, mixing in fresh draws leaves q(z_s) as it is."""
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    alpha_t, alpha_s = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    z = torch.arange(3)
    at_t = alpha_t * law + (1 - alpha_t) / 3
    for kappa in (1.0, 0.5, 0.0):
        # One position: the leave-one-out prediction is the prior.
        step = sampling.transition(law.expand(3, 3), z, alpha_s.expand(3), alpha_t.expand(3), kappa)
        np.testing.assert_allclose(
            (at_t @ step).numpy(), (alpha_s * law + (1 - alpha_s) / 3).numpy(), atol=1e-14
        )


def test_13_nucleus_filters_before_the_posterior() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    np.testing.assert_allclose(sampling.nucleus(probs, 0.7).numpy(), [[0.625, 0.375, 0, 0]])
    assert torch.equal(sampling.nucleus(probs, 1.0), probs)
    assert sampling.nucleus(probs, 0.01).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_13_a_masked_tail_fills_every_mask_and_nothing_else(name: str, temperature: float) -> None:
    model = backbone(name)
    page = canvas(model, [PROMPT], NEW)
    row, spec = page.rows[0], model.spec
    program = fewstep.METHOD.decode_row(row, spec, fewstep.Config(steps=3, temperature=temperature))
    request = next(program)
    while True:
        before = {position: row.token(position) for position in range(3 + NEW) if row.written(position)}
        logits = model.forward(page, request)
        assert spec.mask_id is not None
        logits = logits.clone()
        logits[:, spec.mask_id] = logits.amax(-1) + 2  # MASK is the likeliest token everywhere
        left = row.masked()
        try:
            request = program.send(logits)
        except StopIteration:
            break
        finally:
            assert all(row.token(position) == token for position, token in before.items())
    assert row.nfe == 3
    assert row.masked() == []
    assert spec.mask_id not in row.output
    clean = logits.index_fill(1, torch.tensor([spec.mask_id]), -torch.inf)
    assert [row.token(position) for position in left] == clean.argmax(-1).tolist()


def test_17_aup_of_every_golden_table() -> None:
    count = 0
    for tables in golden()["aup"]["tables"].values():
        for entry in tables.values():
            best = max(y for name, method in entry.items() if name != "y_max" for _, y in method["pairs"])
            assert entry["y_max"] == best  # shared by all methods of a table
            for name, method in entry.items():
                if name != "y_max":
                    assert aup([tuple(pair) for pair in method["pairs"]], entry["y_max"]) == pytest.approx(
                        method["AUP"], abs=1e-3
                    )
                    count += 1
    assert count > 50


def test_17_aup_rules() -> None:
    assert aup([(2.0, 40.0)], 80.0) == 80.0  # a single point is not weighted
    first = aup([(1.0, 80.0), (3.0, 78.0)], 80.0)
    assert first == pytest.approx(80 + 0.5 * 2 * (78 * np.exp(-3 * (1 - 78 / 80)) + 80))
    assert aup([(1.0, 80.0), (3.0, 78.0), (9.0, 74.9)], 80.0) == first
    assert aup([(1.0, 80.0), (3.0, 78.0), (9.0, 75.0)], 80.0) > first
    assert aup([(3.0, 78.0), (1.0, 80.0)], 90.0) < first


@pytest.mark.parametrize(("mode", "per_step"), [("jacobi", 1), ("gauss_seidel", 2)])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_20_lockstep_makes_the_forwards_it_says(
    mode: Literal["jacobi", "gauss_seidel"], per_step: int, steps: int
) -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [PROMPT], NEW)
    method: Any = lockstep.METHOD
    with model.watch() as seen:
        method.decode(
            model,
            page,
            lockstep.Config(mode=mode, steps=steps, r_length=16, a_length=8, tau_r=1.0, tau_a=1.0),
        )
    row = page.rows[0]
    assert seen.calls == row.nfe == steps * per_step
    assert row.masked() == []
    assert finished_length(row) > 0
    assert model.spec.mask_id not in row.output


@pytest.mark.parametrize("mode", ["jacobi", "gauss_seidel"])
def test_20_only_gauss_seidel_shows_the_answer_this_steps_reasoning(
    mode: Literal["jacobi", "gauss_seidel"],
) -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [PROMPT], NEW)
    row, a_start = page.rows[0], 3 + 16
    program = lockstep.METHOD.decode_row(
        row, model.spec, lockstep.Config(mode=mode, steps=4, r_length=16, a_length=8, tau_r=1.0, tau_a=1.0)
    )
    request = next(program)
    empty = model.forward(page, request)
    if mode == "jacobi":
        program.send(empty)
        answer, source = [p for p in range(a_start, a_start + 8) if row.written(p)], empty
        at = list(request.at)
    else:
        request = program.send(empty)
        reasoning = [p for p in range(3, a_start) if row.written(p)]
        assert reasoning
        blind = model.forward(
            page, Forward(request.feed, request.at, assume=dict.fromkeys(reasoning, row.fill_id))
        )
        source = model.forward(page, request)
        assert (source - blind).abs().max() > 1e-3
        at = list(request.at)
        program.send(source)
        answer = [p for p in range(a_start, a_start + 8) if row.written(p)]
    assert len(answer) == 2
    assert model.spec.mask_id is not None
    best = source.index_fill(1, torch.tensor([model.spec.mask_id]), -torch.inf).argmax(-1)
    assert [row.token(p) for p in answer] == [int(best[at.index(p)]) for p in answer]
