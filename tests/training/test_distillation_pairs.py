"""Coupled states: literal Gaussian against fast sampler, nesting, masks (tests 4 to 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, kstest
from torch import Tensor

from methods.duo import usdm
from methods.training.losses import couplings as pairs
from methods.training.losses import masks
from methods.training.losses.integral_cache import IntegralCache, alpha_of_keep, keep_of_mu, keep_probability
from tests.distillation import golden, seeded

VOCAB = 32
DRAWS = 40_000


def keep(gamma: float, vocab: int = VOCAB) -> Tensor:
    return torch.from_numpy(keep_probability(np.array([gamma]), vocab)[0])


def events(x: Tensor, z_s: Tensor, z_t: Tensor) -> np.ndarray:
    """Counts of (z_s == x, z_t == x, z_s == z_t)."""
    code = (z_s == x).long() * 4 + (z_t == x).long() * 2 + (z_s == z_t).long()
    return np.bincount(code.numpy(), minlength=8)


def independence(table: np.ndarray) -> float:
    """p-value of the chi-square test of two rows of counts."""
    result: Any = chi2_contingency(table)
    return float(result.pvalue)


def test_04_fast_and_gaussian_pairs_have_one_joint_law() -> None:
    x = torch.randint(VOCAB, (DRAWS,), generator=seeded(0))
    eps = pairs.gaussian_noise(x, VOCAB, seeded(1))
    slow = events(x, *(pairs.gaussian_state(x, eps, torch.tensor(gamma)) for gamma in (-2.0, 0.0)))
    coupling = pairs.uniform_coupling(x, VOCAB, seeded(2))
    fast = events(x, *(coupling.at(keep(gamma)) for gamma in (-2.0, 0.0)))
    assert ((slow > 0) == (fast > 0)).all()
    used = slow > 0
    assert independence(np.stack([slow[used], fast[used]])) > 1e-3
    p_s, p_t = float(keep(-2.0)), float(keep(0.0))
    exact = np.zeros(8)
    exact[7], exact[4], exact[1] = p_t, p_s - p_t, 1 - p_s
    assert (np.flatnonzero(exact) == np.flatnonzero(used)).all()
    assert chisquare(slow[used], exact[used] / exact.sum() * DRAWS).pvalue > 1e-3


def test_04_two_scalars_reproduce_the_literal_trajectory() -> None:
    x = torch.randint(VOCAB, (5000,), generator=seeded(3))
    eps = pairs.gaussian_noise(x, VOCAB, seeded(4))
    theta, other = pairs.flip(x, eps)
    for gamma in np.linspace(-5, 9, 15):
        expected = torch.where(torch.exp(torch.tensor(-gamma / 2)) > theta, x, other)
        assert torch.equal(pairs.gaussian_state(x, eps, torch.tensor(gamma)), expected)


def test_04_the_flip_is_uniform_on_the_probability_scale() -> None:
    x = torch.randint(VOCAB, (DRAWS,), generator=seeded(5))
    theta, other = pairs.flip(x, pairs.gaussian_noise(x, VOCAB, seeded(6)))
    assert kstest(keep_of_mu(theta.numpy(), VOCAB)[0], "uniform").pvalue > 1e-3
    wrong = (other - x) % VOCAB
    assert (wrong != 0).all()
    assert chisquare(np.bincount(wrong.numpy(), minlength=VOCAB)[1:]).pvalue > 1e-3
    low, high = wrong[theta < theta.median()], wrong[theta >= theta.median()]
    table = np.stack([np.bincount(part.numpy(), minlength=VOCAB)[1:] for part in (low, high)])
    assert independence(table) > 1e-3


def test_05_a_position_flips_once_and_knows_two_values() -> None:
    x = torch.randint(VOCAB, (400,), generator=seeded(7))
    gammas = torch.linspace(-5, 8, 60, dtype=torch.float64)
    eps = pairs.gaussian_noise(x, VOCAB, seeded(8))
    coupling = pairs.uniform_coupling(x, VOCAB, seeded(9))
    slow = torch.stack([pairs.gaussian_state(x, eps, gamma) for gamma in gammas])
    fast = torch.stack([coupling.at(keep(float(gamma))) for gamma in gammas])
    for states in (slow, fast):
        kept = (states == x).long()
        assert (kept.diff(dim=0) <= 0).all()
        assert max(len(column.unique()) for column in states.T) == 2
        noisy = states.masked_fill(kept.bool(), -1)
        assert all(len(column[column >= 0].unique()) <= 1 for column in noisy.T)


@pytest.mark.parametrize(
    "entry", golden()["ddt_vs_usdm"]["rows"], ids=lambda row: f"K{row['K']}:{row['gamma_t']}"
)
def test_05_transitions_differ_from_the_forward_chain(entry: dict[str, float]) -> None:
    vocab = int(entry["K"])
    p_s, p_t = keep(entry["gamma_s"], vocab), keep(entry["gamma_t"], vocab)
    assert float((p_s - p_t) / (1 - p_t)) == pytest.approx(entry["DDT_P(zs=x|zt=j!=x)"], abs=1e-9)
    assert float((1 - p_s) / (1 - p_t)) == pytest.approx(entry["DDT_P(zs=j|zt=j!=x)"], abs=1e-9)
    clean = torch.nn.functional.one_hot(torch.tensor([0]), vocab).double()
    chain = usdm.posterior(clean, torch.tensor([1]), alpha_of_keep(p_s, vocab), alpha_of_keep(p_t, vocab))[0]
    assert float(chain[0]) == pytest.approx(entry["USDM_P(zs=x|zt=j!=x)"], abs=1e-9)
    assert float(chain[1]) == pytest.approx(entry["USDM_P(zs=j|zt=j!=x)"], abs=1e-9)
    assert float(chain[2:].sum()) == pytest.approx(entry["USDM_P(zs=other|zt=j!=x)"], abs=1e-9)
    assert float(chain[2:].sum()) > 0


def test_05_golden_trajectory() -> None:
    entry = golden()["coupling_example"]["values"]
    x, u, other = (torch.tensor(entry[name]) for name in ("x0", "u", "noise_token"))
    table = IntegralCache.build(entry["K"], -5.0, 3.0)
    for gamma, state in entry["z"].items():
        p = table.p(torch.tensor(float(gamma)))
        assert float(p) == pytest.approx(state["p"], abs=1e-9)
        assert pairs.Coupling(x, u, other).at(p).tolist() == state["uniform"]
        assert pairs.Coupling(x, u, torch.full_like(x, -1)).at(p).tolist() == state["absorbing(mask=-1)"]


@pytest.mark.parametrize("clock", ["linear", "gaussian"])
def test_06_masks_are_nested_and_reveal_at_the_chains_rate(clock: masks.Clock) -> None:
    mask_id, table = VOCAB, IntegralCache.build(VOCAB, *(-3.4, 6.0), points=5000)
    x = torch.randint(VOCAB, (DRAWS,), generator=seeded(10))
    coupling = pairs.mask_coupling(x, mask_id, seeded(11))
    t, s = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.45], dtype=torch.float64)
    keep_t, keep_s = (masks.keep_at(time, clock, table) for time in (t, s))
    if clock == "gaussian":
        # A masked process keeps a token with p_K itself: a mask never hits the clean token by chance.
        assert torch.allclose(keep_t, table.p(table.gamma(t)))
        assert abs(float(keep_t - table.alpha(table.gamma(t)))) > 1e-3
    z_t, z_s = coupling.at(keep_t), coupling.at(keep_s)
    masked_t, masked_s = z_t == mask_id, z_s == mask_id
    assert (masked_t | ~masked_s).all()
    assert torch.equal(z_t[~masked_t], x[~masked_t])
    rate = float((keep_s - keep_t) / (1 - keep_t))
    shown = float((~masked_s[masked_t]).double().mean())
    assert abs(shown - rate) < 4 * np.sqrt(rate * (1 - rate) / int(masked_t.sum()))
    assert abs(float(masked_t.double().mean()) - float(1 - keep_t)) < 4 * np.sqrt(0.25 / DRAWS)
