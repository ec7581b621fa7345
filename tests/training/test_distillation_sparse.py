"""The curriculum from the largest Gaussians alone: same law of the state, same weights as from all of
them.
"""

from __future__ import annotations

import pytest
import torch

from methods.training.duo import curriculum, sparse
from methods.training.losses import couplings as pairs
from methods.training.losses import integral_cache as cache
from tests.distillation import seeded

VOCAB, ROWS = 32, 40_000
GAMMA = torch.tensor(-1.0)


def test_state_keeps_the_clean_token_as_often_as_all_gaussians_do() -> None:
    x = torch.randint(VOCAB, (ROWS,), generator=seeded())
    kept = sparse.top_latent(x, VOCAB, GAMMA, 2, seeded(1))
    z = kept.ids[:, 0]
    p = float(cache.keep_probability(GAMMA.numpy(), VOCAB)[0][0])
    assert abs(float((z == x).double().mean()) - p) < 4 * (p * (1 - p) / ROWS) ** 0.5
    shift = (z - x)[z != x] % VOCAB
    counts = torch.bincount(shift, minlength=VOCAB)[1:].double()
    expected = counts.sum() / (VOCAB - 1)
    assert (
        float(((counts - expected) ** 2 / expected).sum()) < 70
    )  # chi-square, 30 degrees of freedom: P < 1e-4
    assert (kept.ids[:, 0] != kept.ids[:, 1]).all()
    assert (kept.values[:, 0] >= kept.values[:, 1]).all()
    assert (kept.ids < VOCAB).all()


@pytest.mark.parametrize("tau", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("k", [2, 5])
def test_weights_agree_with_those_of_all_gaussians(tau: float, k: int) -> None:
    x = torch.zeros(ROWS, dtype=torch.long)
    kept = sparse.top_latent(x, VOCAB, GAMMA, k, seeded(2))
    weights = sparse.soft_top(kept, tau)
    latent = pairs.gaussian_latent(x, pairs.gaussian_noise(x, VOCAB, seeded(3)), GAMMA)
    full = curriculum.soft_input(latent, tau).sort(-1, descending=True).values[:, :k]
    spread = full.std(0) * (2 / ROWS) ** 0.5
    # The tail's mean stands for the tail: exact as tau falls, within 2% of the weight at tau = 1.
    assert ((weights.mean(0) - full.mean(0)).abs() < 4 * spread + 0.02 * full.mean(0) + 1e-9).all()
    assert (weights.sum(-1) <= 1 + 1e-12).all()


def test_no_weight_is_lost_where_the_network_gets_it() -> None:
    kept = sparse.top_latent(torch.tensor([[3, 1]]), VOCAB, GAMMA, 3, seeded())
    spread = sparse.dense(kept, sparse.soft_top(kept, 1e-3), VOCAB)
    assert spread.shape == (1, 2, VOCAB)
    assert torch.equal(spread.argmax(-1), kept.ids[..., 0])
    assert float(spread.sum(-1).min()) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="leave out"):
        sparse.top_latent(torch.tensor([0]), 4, GAMMA, 4)


def test_loss_has_the_same_mean() -> None:
    table = cache.IntegralCache.build(VOCAB, *cache.window(VOCAB, 0.95, 0.05), 2000)
    x, t = (
        torch.randint(VOCAB, (4000, 1), generator=seeded()),
        torch.linspace(0, 1, 4000, dtype=torch.float64),
    )
    net = torch.randn(VOCAB, VOCAB, generator=seeded(4))
    losses = [
        curriculum.curriculum_loss(lambda p, _: p @ net, x, t, table, 1e-3, seeded(5), top) for top in (0, 2)
    ]
    error = (losses[0].var() / len(x) + losses[1].var() / len(x)) ** 0.5
    assert abs(float(losses[0].mean() - losses[1].mean())) < 4 * float(error)
