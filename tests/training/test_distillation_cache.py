"""Integral cache: closed forms, golden values, gradients, Monte Carlo, storage (tests 1 to 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import chisquare, multivariate_normal

from methods.training.losses import integral_cache as integral
from methods.training.losses.integral_cache import (
    CacheError,
    IntegralCache,
    alpha_of_keep,
    gamma_at_alpha,
    keep_probability,
    window,
)
from tests.distillation import golden, seeded

VOCABULARIES = (2, 3, 32, 1000, 50257, 151936, 152064)


def p_of_mu(mu: float, vocab: int) -> float:
    return float(integral.keep_of_mu(np.array([mu]), vocab)[0][0])


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_01_two_and_three_tokens_have_closed_forms(mu: float) -> None:
    assert p_of_mu(mu, 2) == pytest.approx(ndtr(mu / np.sqrt(2)), abs=1e-10)
    half = np.array([[1, 0.5], [0.5, 1]])
    both = multivariate_normal.cdf([mu / np.sqrt(2)] * 2, [0, 0], half, abseps=1e-12, releps=1e-12)  # pyright: ignore[reportArgumentType]
    assert p_of_mu(mu, 3) == pytest.approx(both, abs=1e-10)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_01_value_and_slope_at_mu_zero(vocab: int) -> None:
    value, slope = (float(part[0]) for part in integral.keep_of_mu(np.array([0.0]), vocab))
    assert value == pytest.approx(1 / vocab, abs=1e-10)
    expected = golden()["closed_forms"]["mu0_slope"][str(vocab)]["E_max"]
    assert slope == pytest.approx(expected / vocab, abs=1e-10)
    assert float(alpha_of_keep(torch.tensor(1 / vocab, dtype=torch.float64), vocab)) == pytest.approx(
        0.0, abs=1e-15
    )


def test_01_series_of_the_second_paper_gives_the_same_alpha() -> None:
    entry = golden()["series"]
    coefficients = list(integral.series_coefficients(entry["K"]))
    np.testing.assert_allclose(coefficients[:6], entry["m_0..5"], atol=1e-12)
    for mu in (0.5, 2.0, 4.0):
        total = np.exp(-(mu**2) / 2) * sum(mu**n * m for n, m in enumerate(coefficients))
        assert p_of_mu(mu, entry["K"]) == pytest.approx(total, abs=1e-10)


@pytest.mark.parametrize("vocab", [32, 1000, 50257, 151936, 152064])
def test_02_cache_equals_the_golden_integrals(vocab: int) -> None:
    entry = golden()["integral_cache"]["values"][str(vocab)]
    gamma = torch.tensor(entry["gamma"], dtype=torch.float64)
    inside = (gamma >= -5) & (gamma <= -1)
    wanted = torch.tensor(entry["p"], dtype=torch.float64)
    table = IntegralCache.build(vocab, -5.0, -1.0)
    assert (table.p(gamma[inside]) - wanted[inside]).abs().max() < 1e-9
    assert (table.p(gamma[inside], "nearest") - wanted[inside]).abs().max() < 2e-5
    between = torch.rand(2000, dtype=torch.float64, generator=seeded()) * 4 - 5
    exact = torch.from_numpy(keep_probability(between.numpy(), vocab)[0])
    assert (table.p(between) - exact).abs().max() < 1e-9
    assert (table.p(between, "nearest") - exact).abs().max() < 2e-5
    assert (table.keep.diff() <= 1e-15).all()
    steep = (table.keep[1:] < 1 - 1e-9) & (table.keep[1:] > 0)
    assert (table.keep.diff()[steep] < 0).all()


@pytest.mark.parametrize("vocab", [32, 1000, 50257, 151936, 152064])
def test_02_whole_golden_range(vocab: int) -> None:
    entry = golden()["integral_cache"]["values"][str(vocab)]
    value, slope = keep_probability(np.array(entry["gamma"]), vocab)
    np.testing.assert_allclose(value, entry["p"], atol=1e-10)
    np.testing.assert_allclose(slope, entry["dp_dgamma"], atol=1e-10)


@pytest.mark.parametrize("mode", ["hermite", "nearest"])
def test_02_gradients_agree_with_finite_differences(mode: integral.Lookup) -> None:
    table = IntegralCache.build(1000, -4.0, 0.0)
    gamma = torch.tensor([-3.7, -2.9, -2.2, -0.8], dtype=torch.float64, requires_grad=True)
    table.p(gamma, mode).sum().backward()
    h = 1e-4
    exact = (
        keep_probability(gamma.detach().numpy() + h, 1000)[0]
        - keep_probability(gamma.detach().numpy() - h, 1000)[0]
    )
    assert gamma.grad is not None
    # The nearest entry is up to 2e-5 away in gamma.
    np.testing.assert_allclose(gamma.grad.numpy(), exact / (2 * h), atol=1e-8 if mode == "hermite" else 4e-5)


def test_02_the_table_depends_on_the_vocabulary() -> None:
    at_minus_three = [
        float(keep_probability(np.array([-3.0]), vocab)[0][0]) for vocab in (32, 1000, 50257, 151936)
    ]
    np.testing.assert_allclose(at_minus_three, [0.984, 0.879, 0.596, 0.504], atol=5e-4)


def test_02_windows_are_recomputed_per_vocabulary() -> None:
    for vocab in ("32", "1000", "152064"):
        entry = golden()["gamma_at_alpha"]["values"][vocab]
        for name, gamma in entry.items():
            if name.startswith("alpha="):
                assert gamma_at_alpha(float(name[6:]), int(vocab)) == pytest.approx(gamma, abs=1e-8)
    assert window(152064) == pytest.approx((-4.083, -0.520), abs=1e-3)
    for entry in golden()["reference_windows"].values():
        table = IntegralCache.build(entry["K"], *entry["gamma"], points=2000)
        np.testing.assert_allclose(
            table.alpha(torch.tensor(entry["gamma"])).numpy(), entry["alpha_usdm"], atol=5e-7
        )


def test_02_alpha_increments_of_the_published_rounds() -> None:
    for vocab, rounds in golden()["dcd_alpha_increment_per_round"]["values"].items():
        table = IntegralCache.build(int(vocab), -4.0, -1.0, points=4000)
        for name, entry in rounds.items():
            dt = float(name.split("dt=")[1])
            t = torch.linspace(dt, 1, 4001, dtype=torch.float64)
            rise = table.alpha(table.gamma(t - dt)) - table.alpha(table.gamma(t))
            assert float(rise.max()) == pytest.approx(entry["max_delta_alpha"], rel=1e-5)


@pytest.mark.parametrize("gamma", [-3.0, -2.0, 0.0])
def test_03_frequencies_of_the_argmax(gamma: float) -> None:
    vocab, draws = 32, 100_000
    w = torch.randn(draws, vocab, dtype=torch.float64, generator=seeded(1))
    w[:, 0] += np.exp(-gamma / 2)
    counts = np.bincount(w.argmax(-1).numpy(), minlength=vocab)
    p = float(keep_probability(np.array([gamma]), vocab)[0][0])
    assert abs(counts[0] / draws - p) < 4 * np.sqrt(p * (1 - p) / draws)
    assert chisquare(counts[1:]).pvalue > 1e-4
    alpha = float(alpha_of_keep(torch.tensor(p), vocab))
    assert alpha + (1 - alpha) / vocab == pytest.approx(p, abs=1e-7)


def test_tables_are_stored_by_what_they_hold(tmp_path: Path) -> None:
    first = integral.cached(tmp_path, 32, -3.0, 1.0, 500)
    again = integral.cached(tmp_path, 32, -3.0, 1.0, 500)
    assert torch.equal(first.keep, again.keep)
    assert len(list(tmp_path.iterdir())) == 1
    (file,) = tmp_path.iterdir()
    with pytest.raises(CacheError, match="wanted"):
        IntegralCache.load(file, 33, -3.0, 1.0, 500)
    with pytest.raises(CacheError, match="at least 2 tokens"):
        keep_probability(np.array([0.0]), 1)
    with pytest.raises(CacheError, match="gamma_min < gamma_max"):
        IntegralCache.build(32, 1.0, -1.0)
