"""Certainty forcing and trajectory order (test 16)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.training.losses import certainty as cfd
from methods.training.losses import masks
from methods.training.students.cfd import CFDOptions, row_rates
from tests.distillation import golden, seeded


def test_16_golden_certainty() -> None:
    entry = golden()["certainty_forcing"]
    logits = torch.tensor(entry["logits"], dtype=torch.float64)[None]
    labels = torch.tensor(entry["labels"])[None]
    out = cfd.certainty(logits, labels, torch.ones(1, 3, dtype=torch.bool), entry["T"])
    assert out.correct.long().flatten().tolist() == entry["correct"]
    assert float(out.cross_entropy) == pytest.approx(entry["CE"], abs=1e-9)
    assert float(out.entropy) == pytest.approx(entry["certainty"], abs=1e-9)
    assert float(out.total(1.0)) == pytest.approx(entry["total_beta1"], abs=1e-9)
    assert float(out.total(2.0)) == pytest.approx(entry["total_beta2"], abs=1e-9)
    other = (logits * entry["T"]).log_softmax(-1)
    wrong_way = -(other.exp() * other).sum(-1)[0, [0, 2]].mean()
    assert abs(float(wrong_way) - entry["certainty"]) > 0.1


def test_16_entropy_is_of_correct_positions_alone() -> None:
    logits = torch.randn(2, 5, 7, dtype=torch.float64, generator=seeded()).requires_grad_()
    best = logits.argmax(-1)
    masked = torch.ones(2, 5, dtype=torch.bool)
    masked[0, 0] = False
    assert float(cfd.certainty(logits, (best + 1) % 7, masked).entropy.detach()) == 0.0
    labels = best.clone()
    labels[1] = (labels[1] + 1) % 7
    out = cfd.certainty(logits, labels, masked)
    out.entropy.backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched, out.correct)
    assert touched.tolist() == [[False, True, True, True, True], [False] * 5]
    nothing = cfd.certainty(logits, labels, torch.zeros_like(masked))
    assert float(nothing.total().detach()) == 0.0
    assert torch.isfinite(
        cfd.certainty(masks.token_log_probs(logits.detach(), 6), labels.clamp(max=5), masked).total()
    )


def test_16_masks_of_every_row_are_drawn_on_their_own() -> None:
    region = torch.zeros(400, 40, dtype=torch.bool)
    region[:, 8:] = True
    masked, complement = cfd.random_masks(region, 0.5, seeded())
    assert torch.equal(masked | complement, region)
    assert not (masked & complement).any()
    assert abs(float(masked[region].double().mean()) - 0.5005) < 4 * (0.25 / int(region.sum())) ** 0.5
    assert len({tuple(row) for row in masked.tolist()}) == 400


def test_masks_at_a_rate_per_row() -> None:
    region = torch.ones(2, 4000, dtype=torch.bool)
    masked, _ = cfd.random_masks(region, torch.tensor([[0.2], [1.0]]), seeded())
    light, heavy = masked.double().mean(1).tolist()
    assert light == pytest.approx(0.2008, abs=0.025)
    assert heavy == 1.0
    options = CFDOptions(output=Path("out"), work=Path("work"), rate=0.5, rate_to=0.9)
    rates = row_rates(options, 1000, seeded())
    assert isinstance(rates, torch.Tensor)
    assert rates.shape == (1000, 1)
    assert 0.5 <= rates.min() < 0.51
    assert 0.89 < rates.max() <= 0.9


def test_16_trajectory_masks_follow_the_teachers_order() -> None:
    answer = [3, 0, 1, 2, 6, 4, 7, 5]
    order = torch.tensor([[-1, -1, *answer], [-1, -1, *answer]])
    window = cfd.trajectory_masks(order, torch.tensor([0, 4]), 4, torch.tensor([0.5, 1.0]))
    # Row 0: two steps of the first window are done (answer tokens 1 and 2); everything behind it is masked.
    assert window.masked[0].long().tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert window.complement[0].long().tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert window.after[0].long().tolist() == [0] * 6 + [1] * 4
    assert window.masked[1].long().tolist() == [0] * 6 + [1] * 4
    assert not window.after[1].any()
    fuller = cfd.trajectory_masks(order, torch.tensor([0, 0]), 8, torch.tensor([0.25, 0.75]))
    assert fuller.masked.sum(1).tolist() == [2, 6]
    assert (fuller.masked[1] | ~fuller.masked[0]).all()
    assert [cfd.window_width(p) for p in (0.0, 1 / 6, 1 / 3, 1.0)] == [16, 20, 24, 32]
    ratios = cfd.window_ratio(0.5, 1000, seeded())
    assert ratios.min() >= 0.4
    assert ratios.max() <= 0.8


def test_16_two_sided_loss() -> None:
    logits = torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=seeded())
    labels = torch.randint(5, (2, 6), generator=seeded(1))
    sides = cfd.random_masks(torch.ones(2, 6, dtype=torch.bool), 0.5, seeded(2))
    parts = [cfd.certainty(logits[i], labels, sides[i]) for i in range(2)]
    expected = sum(float(part.cross_entropy + 2 * part.entropy) for part in parts) / 4
    assert float(cfd.two_sided(logits[0], logits[1], labels, sides, 2.0)) == pytest.approx(expected)
