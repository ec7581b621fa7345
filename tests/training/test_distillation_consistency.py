"""Consistency distillation: gradients, rounds, fixed points, position classes (tests 10 to 12)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from methods.duo import usdm
from methods.duo.model import Denoiser, denoiser_spec
from methods.training.duo import consistency
from methods.training.loop.rounds import Rounds, RoundSchedule, average_decay
from methods.training.losses import dcd, masks
from methods.training.losses.divergences import kl, log_mse, reverse_kl, total_variation
from methods.training.losses.integral_cache import IntegralCache
from tests.distillation import MASK, bayes_masked, bayes_uniform, draw_pairs, golden, joint, seeded

TABLE = IntegralCache.build(3, -3.0, 4.0, points=4000)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_10_no_gap_no_loss(direction: consistency.Direction) -> None:
    net = Denoiser(denoiser_spec(3, hidden=16, layers=1, heads=2))
    x, u = draw_pairs(64, seeded()), torch.rand(64, dtype=torch.float64, generator=seeded(1))
    assert (
        float(consistency.consistency_loss(net, net, x, u, 0.0, TABLE, direction, seeded(2)).detach()) == 0.0
    )
    exact = [
        consistency.consistency_loss(bayes_uniform, bayes_uniform, x, u, dt, TABLE, direction, seeded(3))
        for dt in (0.0, 0.1, 0.4)
    ]
    assert float(exact[0]) == 0.0
    assert float(exact[2]) > float(exact[1]) > 1e-5


def test_10_no_gradient_reaches_the_teacher() -> None:
    student, teacher = (
        Denoiser(denoiser_spec(3, hidden=16, layers=1, heads=2), seed=seed) for seed in (0, 1)
    )
    x, u = draw_pairs(8, seeded()), torch.rand(8, dtype=torch.float64, generator=seeded(1))
    consistency.consistency_loss(student, teacher, x, u, 0.1, TABLE).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters()
    )
    logits = torch.randn(2, 3, 5, requires_grad=True)
    consistency.dcd_loss(
        torch.randn(2, 3, 5).log_softmax(-1).requires_grad_(), logits.log_softmax(-1)
    ).backward()
    assert logits.grad is None


def test_10_directions_of_the_divergence() -> None:
    entry = golden()["dimo_gradient"]
    psi, phi = (torch.tensor(entry[name], dtype=torch.float64).log_softmax(-1) for name in ("z_psi", "z_phi"))
    assert float(consistency.dcd_loss(psi, phi, direction="reverse")) == pytest.approx(
        entry["RKL_value"], abs=1e-9
    )
    assert float(consistency.dcd_loss(psi, phi, direction="forward")) == pytest.approx(
        entry["FKL_value"], abs=1e-9
    )
    assert float(reverse_kl(psi, phi)) == pytest.approx(
        float(nn.functional.kl_div(phi, psi, reduction="sum", log_target=True))
    )
    valid = torch.tensor([[True, False], [False, False]])
    stack = torch.stack([psi, phi]).expand(2, 2, 5)
    assert float(consistency.dcd_loss(stack, phi.expand(2, 2, 5), valid)) == pytest.approx(entry["RKL_value"])


def test_10_distances_that_are_no_divergences() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.75, 0.0]).log()
    assert float(total_variation(p, q)) == pytest.approx(0.25)
    assert float(log_mse(p, q)) == pytest.approx(float((p - q)[:2].square().sum()) / 3)
    assert float(kl(p, q)) == pytest.approx(float((p.exp() * (p - q))[:2].sum()))
    assert float(kl(q, torch.tensor([1.0, 0.0, 0.0]).log())) == float("inf")


def test_10_pair_times() -> None:
    u = torch.tensor([0.001, 0.3, 0.999], dtype=torch.float64)
    t, s = consistency.pair_times(u, 0.125)
    torch.testing.assert_close(t - s, torch.full_like(t, 0.125))
    assert t.max() == 1.0
    t, s = consistency.pair_times(u, 0.125, "paper")
    assert torch.equal(t, u)
    assert s.min() == 0.0


def test_10_time_steps_double_and_the_teacher_is_the_raw_student() -> None:
    published = RoundSchedule()
    assert [published.dt(10_000 * n) for n in range(5)] == [1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32]
    assert (published.dt(9_999), published.dt(60_000), published.steps) == (1 / 512, 1 / 32, 50_000)
    schedule = RoundSchedule(first=0.125, every=4, rounds=3)
    rounds = Rounds(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), schedule, decay=0.9)
    rounds.train()
    assert rounds.student.training
    assert not rounds.teacher.training
    assert not rounds.average.training
    history: list[Tensor] = []
    teacher: Tensor | None = None
    for step in range(schedule.steps):
        assert rounds.begin(step) == 0.125 * 2 ** (step // 4)
        student, now = rounds.student[0].weight, rounds.teacher[0].weight  # pyright: ignore[reportIndexIssue]
        if step % 4 == 0:
            assert torch.equal(now, student)
            if step:
                assert not torch.equal(now, rounds.average[0].weight)  # pyright: ignore[reportIndexIssue]
        else:
            assert teacher is not None
            assert torch.equal(now, teacher)
        teacher = now.clone()
        with torch.no_grad():
            student.add_(1.0)
        history.append(student.clone())
    rounds.finish()
    average = history[0] - 1.0
    for n, weights in enumerate(history):
        average = torch.lerp(average, weights, 1 - average_decay(0.9, n))
    torch.testing.assert_close(rounds.average[0].weight, average)  # pyright: ignore[reportIndexIssue]
    assert all(not parameter.requires_grad for parameter in rounds.teacher.parameters())


def gradient_at(point: list[float], loss: Callable[[Tensor], Tensor]) -> float:
    """Largest gradient by the logits at a probability vector."""
    logits = torch.tensor(point, dtype=torch.float64).log().requires_grad_()
    loss(logits.log_softmax(-1)).backward()
    assert logits.grad is not None
    return float(logits.grad.abs().max())


def absorbing_loss(log_p: Tensor, rho: float, direction: dcd.Direction) -> Tensor:
    """Exact expectation of the masked loss at (MASK, MASK), read at position 0 while it is still hidden."""
    student = torch.cat([log_p, torch.tensor([-torch.inf], dtype=torch.float64)]).expand(1, 2, 4)
    total = log_p.new_zeros(())
    for other, chance in [(MASK, 1 - rho), *((v, rho * float(joint().sum(0)[v])) for v in range(3))]:
        z_s, z_t = torch.tensor([[MASK, other]]), torch.tensor([[MASK, MASK]])
        hidden = torch.tensor([[True, False]])
        pair = masks.NestedPair(z_t, z_s, hidden, (z_s != MASK) & (z_t == MASK))
        total = total + chance * dcd.masked_dcd_loss(
            student, bayes_masked(z_s), z_t, pair, direction, shown="none"
        )
    return total


@pytest.mark.parametrize("rho", ["0.0", "0.25", "0.5", "0.9"])
def test_11_masked_fixed_points(rho: str) -> None:
    entry = golden()["dcd_fixed_points_absorbing"]["rho"][rho]
    share = float(rho)
    assert gradient_at(joint().sum(1).tolist(), lambda p: absorbing_loss(p, share, "forward")) < 1e-12
    assert entry["FKL_opt"] == pytest.approx(joint().sum(1).tolist())
    assert gradient_at(entry["RKL_opt"], lambda p: absorbing_loss(p, share, "reverse")) < 1e-9
    if share:
        assert gradient_at(entry["FKL_opt"], lambda p: absorbing_loss(p, share, "reverse")) > 1e-4


def test_11_masked_tower_property_holds_for_sampled_pairs() -> None:
    x = draw_pairs(60_000, seeded(4))
    keep_t, keep_s = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 0.5, dtype=torch.float64)
    pair = masks.nested_pair(x, torch.ones_like(x, dtype=torch.bool), keep_t, keep_s, MASK, seeded(5))
    logits = joint().sum(1).log().requires_grad_()
    padded = torch.cat([logits.log_softmax(-1), torch.tensor([-torch.inf], dtype=torch.float64)])
    only_first = pair.hidden & torch.tensor([True, False])
    loss = dcd.masked_dcd_loss(
        padded.expand(len(x), 2, 4),
        bayes_masked(pair.z_s),
        x,
        masks.NestedPair(pair.z_t, pair.z_s, only_first, pair.shown),
        "forward",
        "none",
    )
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 4 * 0.5 / int(only_first.sum()) ** 0.5


def previous_state(z: int, x: int, chain: str) -> Tensor:
    """P(z_s | z_t = z, x) [3] at p_s = 0.8, p_t = 0.5 (alpha 0.7 and 0.25)."""
    if chain == "Markov":
        clean = torch.eye(3, dtype=torch.float64)[x]
        return usdm.posterior(
            clean,
            torch.tensor(z),
            torch.tensor(0.7, dtype=torch.float64),
            torch.tensor(0.25, dtype=torch.float64),
        )
    result = torch.zeros(3, dtype=torch.float64)
    if z == x:
        result[x] = 1.0
    else:
        result[x], result[z] = (0.8 - 0.5) / (1 - 0.5), (1 - 0.8) / (1 - 0.5)
    return result


def uniform_loss(log_p: Tensor, z_t: tuple[int, int], chain: str, direction: consistency.Direction) -> Tensor:
    """Exact expectation of the loss of position 0 at z_t, teacher at z_s of the given chain."""
    noisy = 0.25 * torch.eye(3, dtype=torch.float64) + 0.75 / 3
    weight = joint() * noisy[:, z_t[0]][:, None] * noisy[:, z_t[1]][None]
    weight = weight / weight.sum()
    total = log_p.new_zeros(())
    for second in range(3):
        chance = sum(
            float(weight[a, b]) * float(previous_state(z_t[1], b, chain)[second])
            for a, b in itertools.product(range(3), repeat=2)
        )
        teacher = bayes_uniform(torch.tensor([[0, second]]), torch.tensor([0.7], dtype=torch.float64))[:, :1]
        total = total + chance * consistency.dcd_loss(log_p.expand(1, 1, 3), teacher, None, direction)
    return total


@pytest.mark.parametrize("z_t", list(itertools.product(range(3), repeat=2)), ids=str)
def test_11_uniform_fixed_points(z_t: tuple[int, int]) -> None:
    entry = golden()["dcd_fixed_points_usdm"]["values"][f"{z_t[0]},{z_t[1]}"]
    assert gradient_at(entry["FKL_DDT"], lambda p: uniform_loss(p, z_t, "DDT", "forward")) < 1e-9
    assert gradient_at(entry["FKL_Markov"], lambda p: uniform_loss(p, z_t, "Markov", "forward")) < 1e-9
    assert gradient_at(entry["RKL_DDT"], lambda p: uniform_loss(p, z_t, "DDT", "reverse")) < 1e-9
    teacher = bayes_uniform(torch.tensor([z_t]), torch.tensor([0.25], dtype=torch.float64))[0, 0].exp()
    assert teacher.tolist() == pytest.approx(entry["LOO_t"], abs=1e-9)
    # No tower property on these trajectories: even forward KL moves away from the teacher.
    assert gradient_at(entry["LOO_t"], lambda p: uniform_loss(p, z_t, "DDT", "forward")) > 1e-4


@pytest.mark.parametrize("shown", ["ce", "anchor", "none"])
def test_12_only_hidden_positions_read_the_teacher(shown: dcd.Shown) -> None:
    x = torch.randint(7, (4, 9), generator=seeded())
    region = torch.ones_like(x, dtype=torch.bool)
    region[:, :2] = False
    keep_t, keep_s = torch.full((4,), 0.3), torch.full((4,), 0.6)
    pair = masks.nested_pair(x, region, keep_t.double(), keep_s.double(), 7, seeded(1))
    assert torch.equal(pair.z_t[:, :2], x[:, :2])
    assert not (pair.hidden | pair.shown)[:, :2].any()
    assert pair.hidden.any()
    assert pair.shown.any()
    assert torch.equal(pair.hidden | pair.shown, pair.z_t == 7)
    student, teacher, anchor = (
        masks.token_log_probs(torch.randn(4, 9, 8, generator=seeded(k)), 7) for k in (2, 3, 4)
    )
    student.requires_grad_()
    first = dcd.masked_dcd_loss(student, teacher, x, pair, shown=shown, anchor=anchor)
    delta = torch.full_like(teacher, -torch.inf).scatter(-1, x.unsqueeze(-1), 0.0)
    second = dcd.masked_dcd_loss(
        student, torch.where(pair.hidden.unsqueeze(-1), teacher, delta), x, pair, shown=shown, anchor=anchor
    )
    assert torch.equal(first, second)
    assert torch.isfinite(first)
    first.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    touched = student.grad.abs().sum(-1) > 0
    assert torch.equal(touched, pair.hidden if shown == "none" else pair.hidden | pair.shown)
    changed = dcd.masked_dcd_loss(student, teacher.roll(1, 0), x, pair, shown=shown, anchor=anchor)
    assert not torch.equal(first, changed)


def test_12_shown_positions_learn_the_clean_token() -> None:
    x = torch.tensor([[1, 2]])
    pair = masks.NestedPair(x, x, torch.tensor([[False, False]]), torch.tensor([[False, True]]))
    student = torch.randn(1, 2, 4, generator=seeded()).log_softmax(-1)
    loss = dcd.masked_dcd_loss(student, student, x, pair, weight=0.5)
    assert float(loss) == pytest.approx(-0.5 * float(student[0, 1, 2]))
    with pytest.raises(ValueError, match="anchor"):
        dcd.masked_dcd_loss(student, student, x, pair, shown="anchor")
    nothing = masks.NestedPair(
        x, x, torch.zeros_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    )
    assert float(dcd.masked_dcd_loss(student, student, x, nothing)) == 0.0
