"""What training holds: blocks computed again, logits a piece at a time, batches chosen by the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.model.spec import ModelSpec
from methods.training import options
from methods.training.loop import places
from methods.training.losses.certainty import place_certainty
from methods.training.students import estimate
from methods.training.students.student import Student
from methods.training.students.trainers import TRAINERS
from tests.allocated import Allocated, tensors_of
from tests.ranks import tiny_base
from tests.students import gradient, made

GB = estimate.GB
DREAM = ModelSpec("dream", 152_064, 3584, 18_944, 28, 28, 4, 128, qkv_bias=True)
SEVEN_B = estimate.Run(
    spec=DREAM, method="cfd", frozen=7_615_616_512, trained=80_740_352, extra=0, row=512, masked=0.25,
    tokens=4096, rank=32, targets=frozenset(options.LINEAR), bf16=True, checkpointing=False, cpu=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


# d3llm's forward is that of cfd.
@pytest.mark.parametrize("method", [name for name in TRAINERS if name != "d3llm"])
def test_blocks_computed_again_give_the_same_gradient(method: str, base: Path, tmp_path: Path) -> None:
    loss, plain = gradient(made(method, base, tmp_path))
    again, computed = gradient(made(method, base, tmp_path, gradient_checkpointing=True))
    assert loss == again
    assert torch.equal(plain, computed)
    assert float(plain.abs().max()) > 0


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("cfd", {}),
        ("d2f", {}),
        ("lockstep", {}),
        ("sdtt", {}),
        ("sdtt", {"rank": 0}),
        ("dcd", {"beta": 0.5}),
        ("dcd", {"shown": "anchor"}),
        ("dimo", {"beta": -0.2}),
    ],
)
def test_logits_in_pieces_give_the_same_loss_and_gradient(
    method: str, given: dict[str, Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, whole = gradient(made(method, base, tmp_path, tokens=2048, **given))
    monkeypatch.setattr(places, "STEP", 64)
    monkeypatch.setattr(places, "NUMBERS", 64 * 1024)
    calls, read = [], Student.read
    monkeypatch.setattr(Student, "read", lambda self, states: calls.append(len(states)) or read(self, states))
    pieces, cut = gradient(made(method, base, tmp_path, tokens=2048, **given))
    assert set(calls) == {64}
    assert len(calls) > 4
    assert pieces == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(cut, whole, rtol=1e-3, atol=1e-5)


def test_pieces_hold_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "NUMBERS", 1 << 20)
    vocab, count = 2000, 4096
    head = torch.randn(vocab, 8)
    states, labels = torch.randn(count, 8, requires_grad=True), torch.arange(count) % vocab

    def work(states: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return place_certainty(states @ head.T, labels, sharp=False)

    with Allocated() as alive:
        found = places.by_places(work, vocab, states, labels)
        found[0].mean().backward()
    assert [len(part) for part in found] == [count] * 3
    assert places.piece_of(vocab) == 512
    assert alive.peak < 4 * 512 * vocab * 4 < count * vocab * 4


def test_complementary_masks_keep_one_graph_at_a_time(base: Path, tmp_path: Path) -> None:
    student = made("cfd", base, tmp_path, tokens=1024)
    parts = TRAINERS["cfd"].build(student)(0)
    assert isinstance(parts, Iterator)
    with Allocated(tensors_of(student.net)) as alive:
        kept = []
        for loss in parts:
            kept.append(alive.now)
            loss.backward()
            del loss
    assert len(kept) == 2
    assert kept[1] < 1.6 * kept[0], "two graphs would be twice as much"


def test_the_estimate_agrees_with_a_measured_peak(base: Path, tmp_path: Path) -> None:
    student = made("cfd", base, tmp_path, tokens=2048, rank=8)
    with Allocated([*tensors_of(student.net, student.rounds)]) as alive:
        gradient(student)
    run = estimate.run_of(student)
    length = student.rows(3).ids.shape
    need = estimate.memory(replace(run, tokens=length[0] * length[1], row=length[1]))
    assert need.total - 2 * 4 * run.trained == pytest.approx(alive.peak, rel=0.15)


def test_batches_are_as_large_as_the_device_holds() -> None:
    step = 8 * 4096
    for size in (80.0, 141.0):
        for ranks in (1, 2, 8):
            found = estimate.fitted(SEVEN_B, step, ranks, size * GB)
            assert found is not None
            assert estimate.memory(found).total <= 0.9 * size * GB
            number = estimate.batches(step, found.tokens, ranks)
            assert number % ranks == 0
            assert number * found.tokens >= step
            if number > ranks:
                larger = replace(found, tokens=-(-step // (number - ranks)))
                assert estimate.memory(larger).total > 0.9 * size * GB
    again = estimate.fitted(replace(SEVEN_B, checkpointing=True), step, 1, 80 * GB)
    plain = estimate.fitted(SEVEN_B, step, 1, 80 * GB)
    assert again is not None
    assert plain is not None
    assert again.tokens > plain.tokens
    assert estimate.fitted(SEVEN_B, step, 1, 16 * GB) is None
    assert [line.count("tokens") for line in estimate.on_gpus(SEVEN_B, step)] == [3, 3]


def test_weights_divided_among_gpus_take_their_share() -> None:
    whole = replace(
        SEVEN_B, rank=0, frozen=0, trained=SEVEN_B.frozen, targets=frozenset(), checkpointing=True
    )
    alone, eight = (estimate.memory(replace(whole, shards=shards)) for shards in (1, 8))
    assert alone.gathered == 0
    assert alone.trained == 8 * eight.trained == 24 * whole.trained
    ends = 2 * DREAM.vocab_size * DREAM.hidden_size
    assert eight.gathered == 8 * ends + 12 * (whole.trained - ends) / DREAM.num_layers
    assert estimate.fitted(whole, 32_768, 8, 80 * GB) is None
    lines = estimate.on_gpus(replace(whole, shards=1), 32_768)
    assert [line.count("does not fit") for line in lines] == [2, 1]
    assert [line.count("does not fit") for line in estimate.on_gpus(whole, 32_768)] == [3, 3]


def test_fit_chooses_rows_and_accumulation(base: Path, tmp_path: Path) -> None:
    student = made("cfd", base, tmp_path, tokens=512, accumulate=4, fit=True)
    run = estimate.run_of(student)
    room = estimate.memory(replace(run, tokens=1024)).total / estimate.USABLE
    tokens, accumulate = estimate.fit(student, room)
    assert (tokens, accumulate) == (1024, 2)
    before = student.key()
    student.resize(tokens, accumulate)
    assert student.key() != before
    assert 512 < student.rows(0).ids.numel() <= 1024
    with pytest.raises(options.TrainingError, match=r"--fit: one row of .*gradient_checkpointing"):
        estimate.fit(student, 1e5)
