"""Data parallel training: two ranks take the steps of one, and what cannot be shared is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.engine.ranks import RankError, one_process, world_size
from methods.training.loop.ranks import BUCKET, Ranks, buckets
from tests.commands import bench
from tests.ranks import difference, final_state, run_ranks, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def words(method: str, base: Path, folder: Path, *settings: str) -> list[str]:
    places = ["--model", str(base), "--output", f"{folder}/out", "--work", f"{folder}/work"]
    chosen = ["every=2", "rounds=1", "tokens=128", "pool_items=50", "answers=0", "dropout=0.1", *settings]
    return ["train", method, "--preset", "smoke", *places, *(w for one in chosen for w in ("--set", one))]


# Gradients of two batches are added in either order; of bfloat16 products, parts of a batch add up exactly.
@pytest.mark.parametrize("method", ["sdtt", "cfd"])
def test_two_ranks_at_half_the_batches_equal_one(method: str, base: Path, tmp_path: Path) -> None:
    assert not bench(*words(method, base, tmp_path / "one", "accumulate=2")).returncode
    run_ranks(2, *words(method, base, tmp_path / "two", "accumulate=2"))
    states = [final_state(tmp_path / name / "work") for name in ("one", "two")]
    assert difference(states[0], states[1]) < 1e-6
    start = {name: torch.zeros_like(value) for name, value in states[0].items()}
    assert difference(states[0], start) > 1e-2
    cards = [json.loads((tmp_path / name / "out" / "card.json").read_text()) for name in ("one", "two")]
    assert [card["ranks"] for card in cards] == [1, 2]
    first, second = (
        (tmp_path / name / "out" / "adapter_model.safetensors").read_bytes() for name in ("one", "two")
    )
    assert first == second


def test_every_batch_of_a_step_has_one_rank() -> None:
    ranks = [Ranks() for _ in range(3)]
    for index, rank in enumerate(ranks):
        rank.index, rank.count = index, 3
    taken = sorted(number for rank in ranks for number in rank.batches(5, 6))
    assert taken == list(range(30, 36))
    assert {len(rank.batches(5, 6)) for rank in ranks} == {2}
    ranks[0].check(6, {"tokens": 512})
    with pytest.raises(RankError, match=r"4 batch.* 3 ranks: --set accumulate=6 --set tokens=341 makes"):
        ranks[0].check(4, {"tokens": 512})


def test_gradients_travel_in_buckets_of_one_type() -> None:
    sizes = [BUCKET - 1, 1, 2, BUCKET * 2, 3]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    tensors.append(torch.empty(4, device="meta", dtype=torch.bfloat16))
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors)] == [
        [BUCKET - 1, 1],
        [2],
        [BUCKET * 2],
        [3],
        [4],
    ]


def test_one_process_alone_sums_nothing() -> None:
    alone = Ranks()
    assert (alone.first, alone.totals([2.0]), alone.on_first(lambda: 3, 0)) == (True, [2.0], 3)
    one_process("bench run")


@pytest.mark.parametrize(
    "command",
    [("run",), ("train", "nano"), ("train", "grpo"), ("train", "grpo-curves", "x"), ("generate-data",)],
)
def test_ranks_are_refused_where_they_would_do_the_work_over(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    assert world_size() == 2
    done = bench(*command, *(("--output", tmp_path / "x") if command == ("generate-data",) else ()))
    assert done.returncode == 2
    named = " ".join(command[:2]).removesuffix(" x")
    assert done.stderr.startswith(f"bench: error: bench {named} runs as one process, and WORLD_SIZE")
    assert not list(tmp_path.iterdir())
