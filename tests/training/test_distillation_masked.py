"""SDTT, DiMO and Dream's alignment (tests 14, 15 and 18)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.losses import dimo, masks, sdtt
from methods.training.losses.divergences import Kind
from tests.distillation import MASK, bayes_masked, draw_pairs, golden, joint, seeded

SPEC = ModelSpec("dream", 24, 16, 32, 1, 2, 1, 8, qkv_bias=True, mask_id=23)


def expected_loss(
    rho: float, k: int, kind: Kind, law: Tensor | None = None, rows: int = 60_000
) -> tuple[float, float]:
    """Mean and standard error of the loss with student = teacher = Bayes, both tokens masked, t = 1."""
    z = torch.full((rows, 2), MASK if law is None else len(law))

    def teacher(ids: Tensor) -> Tensor:
        return bayes_masked(ids, law)

    targets = sdtt.sdtt_targets(
        teacher, z, torch.ones(rows, dtype=torch.float64), rho, int(z[0, 0]), k, seeded(7)
    )
    one = torch.stack(
        [sdtt.DIVERGENCES[kind](teacher(z)[:, i], targets.log_probs[:, i]) for i in range(2)], 1
    ).mean(1)
    whole = sdtt.sdtt_loss(teacher(z), targets, kind)
    assert float(whole) == pytest.approx(float(one.mean()), abs=1e-12)
    return float(whole), float(one.std()) / rows**0.5


@pytest.mark.parametrize("kind", ["forward", "reverse", "mse", "tvd"])
def test_14_one_teacher_step_teaches_nothing_new(kind: Kind) -> None:
    assert expected_loss(0.5, 1, kind, rows=500)[0] == 0.0


@pytest.mark.parametrize("rho", ["0.1", "0.5"])
def test_14_two_teacher_steps_have_the_closed_form(rho: str) -> None:
    entry = golden()["sdtt_expected_loss_student_eq_teacher"]["values"][rho]
    for kind, name in (("forward", "fwd"), ("reverse", "bwd")):
        mean, error = expected_loss(float(rho), 2, kind)  # pyright: ignore[reportArgumentType]
        assert abs(mean - entry[name]) < 4 * error
        assert error < 0.02 * entry[name] + 4e-4
    information = float((joint() * (joint() / (joint().sum(1, keepdim=True) * joint().sum(0))).log()).sum())
    assert entry["fwd"] == pytest.approx(float(rho) * (1 - float(rho)) * information, abs=1e-9)


def test_14_independent_tokens_give_no_loss() -> None:
    law = torch.outer(torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.6, 0.3, 0.1]).double())
    assert expected_loss(0.5, 2, "reverse", law, rows=2000)[0] == pytest.approx(0.0, abs=1e-12)


def test_14_targets_are_distributions_and_cover_every_mask() -> None:
    z = torch.where(torch.rand(400, 2, generator=seeded()) < 0.7, MASK, draw_pairs(400, seeded(1)))
    seen: list[Tensor] = []

    def teacher(ids: Tensor) -> Tensor:
        seen.append(ids.clone())
        return bayes_masked(ids)

    targets = sdtt.sdtt_targets(teacher, z, torch.full((400,), 0.7).double(), 0.3, MASK, 2, seeded(2))
    assert len(seen) == 2
    masked = z == MASK
    assert torch.equal(targets.masked, masked)
    assert torch.equal(seen[0], z)
    first, second = bayes_masked(seen[0]), bayes_masked(seen[1])
    early, late = masked & (seen[1] != MASK), masked & (seen[1] == MASK)
    assert early.any()
    assert late.any()
    torch.testing.assert_close(targets.log_probs[early], first[early], rtol=0, atol=0)
    torch.testing.assert_close(targets.log_probs[late], second[late], rtol=0, atol=0)
    probs = targets.log_probs[masked].exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(int(masked.sum())).double())
    assert probs.max() < 0.999
    assert (targets.log_probs[~masked] == 0).all()
    assert torch.equal(targets.z[~masked], z[~masked])


def test_14_teacher_times_follow_the_algorithm() -> None:
    t = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    grid = sdtt.teacher_times(t, 0.2, 3)
    np.testing.assert_allclose(
        grid.numpy(), [[1.0, 0.5, 0.1], [0.8, 0.3, 1e-5], [0.6, 0.1, 1e-5]], atol=1e-12
    )
    released = t + (1 - t) * (t - 0.4)
    assert not torch.allclose(grid[0], released)
    np.testing.assert_allclose(sdtt.reveal_share(grid[0], 0.2).numpy(), [0.2, 0.4, 1.0])


@pytest.mark.parametrize(
    ("beta", "name"), [(0.0, "grad_FKL"), (1.0, "grad_RKL"), (-0.2, "grad_beta_-0.2"), (0.5, "grad_beta_0.5")]
)
def test_15_golden_gradient_is_what_the_surrogate_gives(beta: float, name: str) -> None:
    entry = golden()["dimo_gradient"]
    psi, phi = (torch.tensor(entry[key], dtype=torch.float64).log_softmax(-1) for key in ("z_psi", "z_phi"))
    gradient = dimo.jeffrey_gradient(psi, phi, beta)
    np.testing.assert_allclose(gradient.numpy(), entry[name], atol=1e-9)
    logits = torch.randn(3, 2, 5, dtype=torch.float64, generator=seeded()).requires_grad_()
    masked = torch.tensor([[True, False], [False, False], [True, True]])
    dimo.surrogate(logits, gradient.expand(3, 2, 5), masked).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.where(masked.unsqueeze(-1), gradient, 0.0) / 3)
    assert dimo.jeffrey_gradient(psi, psi, beta).abs().max() < 1e-15


def test_15_gradient_is_that_of_the_divergence() -> None:
    entry, beta = golden()["dimo_gradient"], 0.3
    scores = torch.tensor(entry["z_psi"], dtype=torch.float64, requires_grad=True)
    psi, phi = scores.log_softmax(-1), torch.tensor(entry["z_phi"], dtype=torch.float64).log_softmax(-1)
    (
        (1 - beta) * sdtt.DIVERGENCES["forward"](psi, phi) + beta * sdtt.DIVERGENCES["reverse"](psi, phi)
    ).backward()
    assert scores.grad is not None
    torch.testing.assert_close(dimo.jeffrey_gradient(psi.detach(), phi, beta), scores.grad)


def test_15_starts_and_masks_are_exact() -> None:
    ids = torch.randint(20, (50, 12), generator=seeded())
    region = torch.zeros_like(ids, dtype=torch.bool)
    region[:, 2:] = True
    start = dimo.hybrid_start(ids, region, 19, 30, 0.6, seeded(1))
    assert torch.equal(start[:, :2], ids[:, :2])
    assert ((start == 19)[:, 2:].sum(1) == 6).all()
    assert start.max() < 30
    again = dimo.exact_masks(region, torch.full((50,), 0.001), seeded(2))
    assert (again.sum(1) == 1).all()
    assert (dimo.hybrid_start(ids, region, 19, 30, 1.0)[:, 2:] == 19).all()
    embedding = torch.randn(50, 12, 400, generator=seeded(3))
    shaken = dimo.perturb(embedding, region, 0.3, seeded(4))
    assert torch.equal(shaken[:, :2], embedding[:, :2])
    assert float(shaken[:, 2:].var()) == pytest.approx(1.0, abs=0.02)
    assert float((shaken - embedding)[:, 2:].square().mean()) == pytest.approx(
        2 * (1 - math.sqrt(1 - 0.09)), rel=0.05
    )
    u = torch.tensor([0.0, 0.5, 1.0])
    assert dimo.mask_ratio(u, "arccos").tolist() == pytest.approx([1.0, 2 / 3, 0.0], abs=1e-6)
    assert dimo.mask_ratio(u, "cosine").tolist() == pytest.approx([1.0, math.cos(math.pi / 4), 0.0], abs=1e-6)


def train_one_step_generator(share: float, steps: int = 350, rows: int = 128) -> float:
    """Mutual information (nats) of a tabular one-step generator of two binary tokens, trained by DiMO."""
    law = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=torch.float64)
    generator, mask_id = seeded(11), 2
    theta, psi = (torch.zeros(9, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimisers = [torch.optim.Adam([table], lr=rate) for table, rate in ((theta, 0.05), (psi, 0.1))]
    region = torch.ones(rows, 2, dtype=torch.bool)
    empty = torch.full((rows, 2), mask_id)

    def look(table: Tensor, ids: Tensor) -> Tensor:
        return table[ids[:, 0] * 3 + ids[:, 1]]

    def play() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        start = dimo.hybrid_start(empty, region, mask_id, 2, share, generator)
        logits = look(theta, start)
        sample = torch.multinomial(logits.detach().softmax(-1).flatten(0, 1), 1, generator=generator).view(
            rows, 2
        )
        masked = dimo.exact_masks(region, dimo.mask_ratio(torch.rand(rows, generator=generator)), generator)
        return logits, sample, masked, torch.where(masked, mask_id, sample)

    for _ in range(steps):
        logits, _, masked, state = play()
        teacher = bayes_masked(state, law)[..., :2]
        gradient = dimo.jeffrey_gradient(look(psi, state).detach().log_softmax(-1), teacher, 0.0)
        losses = [dimo.surrogate(logits, gradient, masked)]
        _, sample, masked, state = play()
        losses.append(dimo.auxiliary_loss(look(psi, state), sample, masked, 0.0))
        for optimiser, loss in zip(optimisers, losses, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    probs = theta.detach().softmax(-1)
    starts = dimo.hybrid_start(empty.repeat(20, 1), region.repeat(20, 1), mask_id, 2, share, generator)
    p = look(probs, starts)
    made = torch.einsum("ra,rb->ab", p[:, 0], p[:, 1]) / len(p)
    return float((made * (made / (made.sum(1, keepdim=True) * made.sum(0))).log()).sum())


def test_15_only_a_random_start_correlates_tokens() -> None:
    assert train_one_step_generator(1.0, steps=50) == pytest.approx(0.0, abs=1e-9)
    assert train_one_step_generator(0.6) > 0.3


def test_15_frozen_parts_stay_and_the_auxiliary_model_moves() -> None:
    theta, psi, phi = (Transformer(SPEC) for _ in range(3))
    for model in (theta, psi, phi):
        model.load_state_dict(phi.state_dict())
    phi.requires_grad_(False)
    for model in (theta, psi):
        dimo.freeze_embeddings(model)
    with torch.no_grad():
        psi.lm_head.weight.mul_(1.5)
    before = [
        {name: value.clone() for name, value in model.state_dict().items()} for model in (theta, psi, phi)
    ]
    optimisers = [
        torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for model in (theta, psi)
    ]
    region = torch.ones(4, 6, dtype=torch.bool)
    start = dimo.hybrid_start(torch.zeros(4, 6, dtype=torch.long), region, 23, 23, 0.6, seeded())

    def log_probs(model: nn.Module, ids: Tensor) -> Tensor:
        return masks.token_log_probs(masks.aligned(model(ids), True), 23)

    logits = masks.aligned(theta(start), True)
    sample = logits[..., :23].argmax(-1)
    masked = dimo.exact_masks(region, torch.full((4,), 0.5), seeded(1))
    state = torch.where(masked, 23, sample)
    dimo.surrogate(
        logits, dimo.jeffrey_gradient(log_probs(psi, state).detach(), log_probs(phi, state), -0.2), masked
    ).backward()
    dimo.auxiliary_loss(masks.aligned(psi(state), True), sample, masked).backward()
    for optimiser in optimisers:
        optimiser.step()
    moved = [
        {name for name, value in model.state_dict().items() if not torch.equal(value, old[name])}
        for model, old in zip((theta, psi, phi), before, strict=True)
    ]
    assert moved[2] == set()
    assert "lm_head.weight" in moved[0]
    assert "lm_head.weight" in moved[1]
    assert all("embed_tokens" not in name for names in moved for name in names)


def test_18_predictions_come_from_the_place_before() -> None:
    length, vocab = 6, 9
    logits = torch.zeros(2, length, vocab)
    logits[:, torch.arange(length), torch.arange(length)] = 5.0
    assert masks.aligned(logits, shift=True).argmax(-1)[0].tolist() == [0, 0, 1, 2, 3, 4]
    assert masks.aligned(logits, shift=False).argmax(-1)[0].tolist() == list(range(length))
    log_p = masks.token_log_probs(torch.randn(2, 3, vocab), 4, tokens=7)
    assert (log_p[..., [4, 7, 8]] == -torch.inf).all()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, 3))


def test_18_a_later_visible_token_changes_masked_predictions() -> None:
    torch.manual_seed(0)
    model = Transformer(SPEC).eval()
    ids = torch.randint(20, (1, 8), generator=seeded())
    ids[0, 3] = 23
    other = ids.clone()
    other[0, 6] = (other[0, 6] + 1) % 20
    with torch.no_grad():
        first, second = (
            masks.token_log_probs(masks.aligned(model(x), SPEC.shift), 23)[0, 3] for x in (ids, other)
        )
    assert (first - second)[:23].abs().max() > 1e-4
