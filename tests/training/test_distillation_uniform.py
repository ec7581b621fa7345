"""Uniform-state posterior, NELBO and curriculum (tests 7 to 9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.duo import usdm
from methods.duo.model import Denoiser, SoftEmbedding, denoiser_spec
from methods.training.duo import curriculum
from methods.training.losses import couplings as pairs
from methods.training.losses.integral_cache import IntegralCache
from tests.distillation import golden, joint, seeded

PREDICTION = torch.tensor([0.1, 0.2, 0.4, 0.25, 0.05], dtype=torch.float64)


def forward_matrix(alpha: float, vocab: int) -> Tensor:
    """q(z | x) [x, z]."""
    return alpha * torch.eye(vocab, dtype=torch.float64) + (1 - alpha) / vocab


def value(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


@pytest.mark.parametrize(
    "row", golden()["usdm_posterior"]["rows"], ids=lambda r: f"{r['alpha_t']}-{r['alpha_s']}-{r['z_t']}"
)
def test_07_golden_posterior(row: dict[str, Any]) -> None:
    ours = usdm.posterior(
        torch.tensor(row["x"], dtype=torch.float64),
        torch.tensor(row["z_t"]),
        value(row["alpha_s"]),
        value(row["alpha_t"]),
    )
    np.testing.assert_allclose(ours.numpy(), row["q_zs"], atol=1e-12)
    assert float(ours.sum()) == pytest.approx(1, abs=1e-14)


def exact_posterior(x: int, z: int, alpha_s: float, alpha_t: float, vocab: int) -> Tensor:
    step = forward_matrix(alpha_t / alpha_s, vocab)
    unnormalised = forward_matrix(alpha_s, vocab)[x] * step[:, z]
    return unnormalised / unnormalised.sum()


@pytest.mark.parametrize(("alpha_s", "alpha_t"), [(0.6, 0.3), (0.999, 0.9), (1.0, 0.4), (0.1, 0.05)])
def test_07_posterior_is_bayes_and_mixes_by_evidence(alpha_s: float, alpha_t: float) -> None:
    vocab = 5
    for z in range(vocab):
        exact = torch.stack([exact_posterior(x, z, alpha_s, alpha_t, vocab) for x in range(vocab)])
        ours = usdm.posterior(
            torch.eye(vocab, dtype=torch.float64), torch.full((vocab,), z), value(alpha_s), value(alpha_t)
        )
        assert (ours - exact).abs().max() < 1e-14
        evidence = PREDICTION * forward_matrix(alpha_t, vocab)[:, z]
        soft = usdm.posterior(PREDICTION, torch.tensor(z), value(alpha_s), value(alpha_t))
        assert (soft - (evidence / evidence.sum()) @ exact).abs().max() < 1e-14
        assert (soft - PREDICTION @ exact).abs().max() > 1e-3


def test_07_ends_of_the_posterior() -> None:
    z = torch.arange(5)
    soft = PREDICTION.expand(5, 5)
    still = usdm.posterior(soft, z, value(0.3), value(0.3))
    assert (still - torch.eye(5, dtype=torch.float64)).abs().max() < 1e-14
    clean = usdm.posterior(soft, z, value(1.0), value(0.3))
    wanted = soft * (5 * 0.3 * torch.eye(5, dtype=torch.float64) + 0.7)
    assert (clean - wanted / wanted.sum(-1, keepdim=True)).abs().max() < 1e-14


def compact(prediction: Tensor, z: int, x: int, alpha: float, dalpha: float) -> Tensor:
    """The generalised Kullback-Leibler form of the NELBO density, written independently."""
    vocab = len(prediction)
    true = vocab * alpha * F.one_hot(torch.tensor(x), vocab).double() + (1 - alpha)
    guess = vocab * alpha * prediction + (1 - alpha)
    y, y_hat = true / true[z], guess / guess[z]
    return -dalpha / (vocab * alpha) * (y * (y / y_hat).log() - y + y_hat).sum()


@pytest.mark.parametrize(
    "row", golden()["usdm_nelbo_token"]["rows"], ids=lambda r: f"{r['alpha']}-{r['x']}-{r['z']}"
)
def test_08_golden_nelbo(row: dict[str, Any]) -> None:
    ours = usdm.nelbo(
        PREDICTION.log(), torch.tensor(row["z"]), torch.tensor(row["x"]), value(row["alpha"]), value(-1.0)
    )
    assert float(ours) == pytest.approx(row["f"], rel=1e-9, abs=1e-9)
    assert float(ours) >= 0
    assert float(ours) == pytest.approx(
        float(compact(PREDICTION, row["z"], row["x"], row["alpha"], -1.0)), rel=1e-10
    )


def test_08_zero_at_the_truth_and_free_of_layout() -> None:
    truth = torch.full((5, 5), -torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    for z in range(5):
        loss = usdm.nelbo(truth, torch.full((5,), z), torch.arange(5), value(0.4), value(-1.0))
        assert loss.abs().max() < 1e-12
    log_x = torch.randn(2, 3, 5, dtype=torch.float64, generator=seeded()).log_softmax(-1)
    z, x = torch.randint(5, (2, 3), generator=seeded(1)), torch.randint(5, (2, 3), generator=seeded(2))
    alpha = torch.tensor([[0.2], [0.8]], dtype=torch.float64)
    whole = usdm.nelbo(log_x, z, x, alpha, value(-1.0))
    turned = usdm.nelbo(log_x.transpose(0, 1), z.T, x.T, alpha.T, value(-1.0)).T
    flat = usdm.nelbo(
        log_x.reshape(6, 5), z.flatten(), x.flatten(), alpha.expand(2, 3).flatten(), value(-1.0)
    )
    assert torch.equal(whole, turned)
    assert torch.equal(whole.flatten(), flat)


def test_08_limit_of_the_posterior_divergence() -> None:
    dt, alpha_t = 1e-4, 0.4
    for z in range(5):
        for x in range(5):
            exact = usdm.posterior(
                F.one_hot(torch.tensor(x), 5).double(), torch.tensor(z), value(alpha_t + dt), value(alpha_t)
            )
            guess = usdm.posterior(PREDICTION, torch.tensor(z), value(alpha_t + dt), value(alpha_t))
            rate = float((exact * (exact / guess).log()).sum()) / dt
            density = usdm.nelbo(
                PREDICTION.log(), torch.tensor(z), torch.tensor(x), value(alpha_t), value(-1.0)
            )
            assert rate == pytest.approx(float(density), rel=1e-3)


def test_08_optimum_is_the_leave_one_out_posterior() -> None:
    entry, law = golden()["toy_leave_one_out"]["values"], joint()
    alpha = entry["alpha"]
    noisy = forward_matrix(alpha, 3)
    weight = torch.einsum("xy,xz,yw->xzw", law, noisy, noisy)  # P(x1, z1, z2)
    for z2 in range(3):
        leave_out = torch.tensor(entry["loo_x1_given_z2"][str(z2)], dtype=torch.float64)
        for z1 in range(3):
            logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
            options = {
                "max_iter": 200,
                "tolerance_grad": 1e-12,
                "tolerance_change": 1e-16,
                "line_search_fn": "strong_wolfe",
            }
            optimiser = torch.optim.LBFGS([logits], **options)

            def closure(
                logits: Tensor = logits,
                optimiser: torch.optim.Optimizer = optimiser,
                z1: int = z1,
                z2: int = z2,
            ) -> Tensor:
                optimiser.zero_grad()
                log_x = logits.log_softmax(-1).expand(3, 3)
                loss = (
                    weight[:, z1, z2]
                    * usdm.nelbo(log_x, torch.full((3,), z1), torch.arange(3), value(alpha), value(-1.0))
                ).sum()
                loss.backward()
                return loss

            optimiser.step(closure)  # pyright: ignore[reportArgumentType]
            found = logits.detach().softmax(-1)
            assert (found - leave_out).abs().max() < 1e-6
            bayes = torch.tensor(entry["bayes_x1_given_z1z2"][f"{z1},{z2}"], dtype=torch.float64)
            assert (found - bayes).abs().max() > 1e-2


def test_08_loss_of_a_model_runs_and_is_differentiable() -> None:
    net = Denoiser(denoiser_spec(10, hidden=16, layers=1, heads=2))
    x = torch.randint(10, (4, 6), generator=seeded())
    t = usdm.antithetic_times(4, seeded(1))
    assert t.min() >= 1e-3
    assert ((t - 1e-3) / (1 - 1e-3) * 4).floor().tolist() == [0, 1, 2, 3]
    loss = usdm.nelbo_loss(lambda z, alpha: net(z, alpha).double(), x, t, usdm.LogLinear(), 10, seeded(2))
    assert loss.shape == (4, 6)
    assert (loss >= 0).all()
    loss.mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_09_cold_input_is_the_embedding_of_the_argmax() -> None:
    embedding = SoftEmbedding(12, 8)
    x = torch.randint(12, (3, 5), generator=seeded())
    latent = pairs.gaussian_latent(x, pairs.gaussian_noise(x, 12, seeded(1)), value(-1.0))
    cold = embedding(curriculum.soft_input(latent, curriculum.DISCRETE).float())
    assert (cold - embedding(latent.argmax(-1))).abs().max() < 1e-6
    warm = embedding(curriculum.soft_input(latent, 0.1).float())
    assert (warm - cold).abs().max() > 1e-2


def test_09_temperature_changes_nothing_for_a_net_that_ignores_softness() -> None:
    vocab, table = 8, IntegralCache.build(8, -2.5, 2.0, points=2000)
    scores = torch.randn(vocab, vocab, generator=seeded())
    seen: list[Tensor] = []

    def net(soft: Tensor, alpha: Tensor) -> Tensor:
        seen.append(soft)
        return scores[soft.argmax(-1)].roll(1, dims=1)

    x = torch.randint(vocab, (4000, 2), generator=seeded(1))
    losses = []
    for tau, seed in ((1e-3, 2), (1e-10, 3)):
        t = usdm.antithetic_times(len(x), seeded(seed))
        losses.append(curriculum.curriculum_loss(net, x, t, table, tau, seeded(seed)).mean(1))
    spread = sum(float(loss.var() / len(loss)) for loss in losses) ** 0.5
    assert abs(float(losses[0].mean() - losses[1].mean())) < 4 * spread
    same = [
        curriculum.curriculum_loss(net, x[:50], usdm.antithetic_times(50, seeded(5)), table, tau, seeded(6))
        for tau in (1e-3, 1e-10)
    ]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(seen[-1], seen[-2])


def test_09_the_loss_reads_the_noisy_state_and_the_tabulated_alpha() -> None:
    vocab, table = 8, IntegralCache.build(8, -2.5, 2.0, points=2000)
    x, t = torch.randint(vocab, (64, 3), generator=seeded()), usdm.antithetic_times(64, seeded(1))
    flat = torch.zeros(64, 3, vocab)
    loss = curriculum.curriculum_loss(lambda *_: flat, x, t, table, 1e-3, seeded(2))
    gamma = table.gamma(t).unsqueeze(-1)
    z = pairs.gaussian_state(x, pairs.gaussian_noise(x, vocab, seeded(2)), gamma)
    h = 1e-5
    dalpha = (table.alpha(gamma + h) - table.alpha(gamma - h)) / (2 * h) * 4.5
    log_x = flat.double().log_softmax(-1)
    expected = usdm.nelbo(log_x, z, x, table.alpha(gamma), dalpha)
    inside = ((gamma > -2.5 + h) & (gamma < 2.0 - h)).expand(64, 3)
    torch.testing.assert_close(loss[inside], expected[inside], rtol=1e-5, atol=1e-8)
    with_x = usdm.nelbo(log_x, x, x, table.alpha(gamma), dalpha)
    assert (loss - with_x).abs().max() > 0.1


def test_09_temperature_schedule() -> None:
    published = curriculum.Temperature()
    assert published.tau(0) == published.tau(499_999) == pytest.approx(1e-3)
    assert published.tau(500_000) == 1e-10
    moving = curriculum.Temperature(-1, -2, 100, 200)
    assert [moving.tau(step) for step in (0, 100, 150)] == pytest.approx([0.1, 0.1, 10**-1.5])
