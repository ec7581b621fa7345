"""Losses at masked places, some at a time, are those of whole rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.training.losses import dcd, dimo, sdtt
from methods.training.losses.certainty import certainty
from methods.training.losses.couplings import mask_coupling
from methods.training.losses.masks import aligned, drawn, nested_pair, token_log_probs
from methods.training.students import dimo as generator
from methods.training.students.student import Student, antithetic
from tests.ranks import tiny_base
from tests.students import gradient, made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def rows_of(student: Student[Any], ids: Tensor, visible: Tensor) -> Tensor:
    """Log-probabilities of whole rows."""
    raw = student.model.head(student.model.hidden(ids, mask=visible))
    return token_log_probs(aligned(raw, student.model.spec.shift).float(), student.mask_id)


@pytest.mark.parametrize("rank", [0, 4])
def test_sdtt_at_places_is_that_of_whole_rows(rank: int, base: Path, tmp_path: Path) -> None:
    student = made("sdtt", base, tmp_path, dropout=0.0, rank=rank)
    loss, slope = gradient(student)
    student.net.zero_grad()
    random, rows = student.random(3), student.rows(3)
    t = antithetic(len(rows.ids), random).clamp(min=1e-3)
    noisy = mask_coupling(rows.ids, student.mask_id, random).at((1 - t).unsqueeze(-1))
    z = torch.where(rows.region, noisy, rows.ids)
    with student.rounds.teacher():
        targets = sdtt.sdtt_targets(
            lambda ids: rows_of(student, ids, rows.visible),
            z,
            t,
            student.options.dt(3),
            student.mask_id,
            2,
            random,
        )
    whole = sdtt.sdtt_loss(rows_of(student, z, rows.visible), targets)
    assert_same(student, whole, loss, slope)


@pytest.mark.parametrize(
    "given", [{"rank": 0}, {"shown": "anchor", "direction": "forward"}, {"shown": "none"}, {"beta": 0.5}]
)
def test_dcd_at_places_is_that_of_whole_rows(given: dict[str, Any], base: Path, tmp_path: Path) -> None:
    student = made("dcd", base, tmp_path, dropout=0.0, **given)
    loss, slope = gradient(student)
    student.net.zero_grad()
    options, random, rows = student.options, student.random(3), student.rows(3)
    t = (antithetic(len(rows.ids), random) + options.dt(3)).clamp(max=1.0)
    pair = nested_pair(
        rows.ids, rows.region, 1 - t, 1 - (t - options.dt(3)).clamp(min=0.0), student.mask_id, random
    )
    with student.rounds.teacher():
        teacher, anchor = (rows_of(student, z, rows.visible) for z in (pair.z_s, pair.z_t))
    own = rows_of(student, pair.z_t, rows.visible)
    whole = dcd.masked_dcd_loss(
        own, teacher, rows.ids, pair, options.direction, options.shown or "none", options.weight, anchor
    )
    whole = whole + options.beta * certainty(own, rows.ids, pair.hidden).entropy
    assert_same(student, whole, loss, slope)


def test_dimo_at_places_is_that_of_whole_rows(base: Path, tmp_path: Path) -> None:
    student = made("dimo", base, tmp_path, dropout=0.0, beta=-0.2)
    trio = generator.Trio(student)
    loss = trio.loss(3)
    slope = torch.cat([p.grad.flatten() for p in trio.psi if p.grad is not None])
    student.net.zero_grad()
    random, rows = student.random(3), student.rows(3)
    first, second = (trio.play(rows, random) for _ in range(2))
    with trio.as_psi():
        psi, own = (rows_of(student, play.state, rows.visible) for play in (first, second))
        finite = own.masked_fill(own == -torch.inf, generator.FLOOR)
        dimo.auxiliary_loss(finite, second.sample, second.masked).backward()
    again = torch.cat([p.grad.flatten() for p in trio.psi if p.grad is not None])
    torch.testing.assert_close(again, slope, rtol=1e-3, atol=1e-6)
    with student.base():
        phi = rows_of(student, first.state, rows.visible)
    wanted = dimo.jeffrey_gradient(psi.detach(), phi, -0.2)[first.masked].square().sum() / 2 / len(rows.ids)
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-3)  # z - (z - g) has z's last bit


def assert_same(student: Student[Any], whole: Tensor, loss: float, slope: Tensor) -> None:
    """The loss within 1e-6 of ``loss``, and its gradient that of ``slope``."""
    whole.backward()
    assert float(whole.detach()) == pytest.approx(loss, rel=1e-6, abs=1e-7)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.rounds.student]
    torch.testing.assert_close(torch.cat([part.flatten() for part in parts]), slope, rtol=1e-3, atol=1e-6)


def test_a_token_depends_on_its_own_number_alone() -> None:
    log_probs = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25]]).double().log().expand(2000, -1)
    u = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = drawn(log_probs, u)
    assert torch.equal(found[300:900], drawn(log_probs[300:900], u[300:900]))
    share = torch.bincount(found, minlength=5) / 2000
    torch.testing.assert_close(share.double(), log_probs[0].exp(), atol=0.04, rtol=0)
    ends = torch.tensor([0.0, 0.26, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert drawn(log_probs[:4], ends).tolist() == [1, 2, 4, 4]
