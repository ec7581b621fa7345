"""All weights divided among ranks: two ranks take the steps of one, and either may go on where the other
stopped.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.decoding.settings import SettingError
from methods.training import options
from methods.training.students.sdtt import SDTTOptions
from tests.commands import bench
from tests.helpers import wait_until
from tests.ranks import checkpoints, difference, final_state, run_ranks, start_ranks, tiny_base

# Sums of the same float32 numbers in another order, which Muon's orthogonalisation carries on.
BOUND = 2e-6
ALL = ("rank=0", "muon_lr=0.002", "shard=true", "accumulate=2", "tokens=128", "pool_items=50", "answers=0")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def words(method: str, base: Path, folder: Path, *settings: str) -> list[str]:
    places = ["--model", str(base), "--output", f"{folder}/out", "--work", f"{folder}/work"]
    chosen = [*ALL, "precision=no", *settings]
    return ["train", method, "--preset", "smoke", *places, *(w for one in chosen for w in ("--set", one))]


def delivered(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "out" / "model.safetensors"))


# sdtt computes as its teacher within a loss, whose weights must be gathered then, and as itself afterwards.
def test_divided_among_two_ranks_equals_one(base: Path, tmp_path: Path) -> None:
    given = ("every=2", "rounds=2", "gradient_checkpointing=true")
    assert not bench(*words("sdtt", base, tmp_path / "one", *given)).returncode
    run_ranks(2, *words("sdtt", base, tmp_path / "two", *given))
    states = [final_state(tmp_path / name / "work") for name in ("one", "two")]
    assert difference(states[0], states[1]) < BOUND
    assert difference(delivered(tmp_path / "one"), delivered(tmp_path / "two")) < 1e-2  # bfloat16
    assert json.loads((tmp_path / "two" / "out" / "card.json").read_text())["ranks"] == 2


def test_killed_under_two_ranks_and_ended_by_one(base: Path, tmp_path: Path) -> None:
    given = ("every=20", "rounds=1")
    assert not bench(*words("cfd", base, tmp_path / "whole", *given)).returncode
    again, work = words("cfd", base, tmp_path / "cut", *given), tmp_path / "cut" / "work"
    processes = start_ranks(2, *again)
    wait_until(lambda: checkpoints(work) != {}, processes[0])
    processes[1].send_signal(signal.SIGKILL)
    processes[0].send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
    (left,) = checkpoints(work)
    assert 0 < torch.load(left, weights_only=True)["step"] < 20
    assert not bench(*again).returncode
    states = [final_state(tmp_path / name / "work") for name in ("whole", "cut")]
    assert difference(states[0], states[1]) < BOUND


def test_what_is_divided_must_train(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"shard divides weights.*--set rank=0"):
        options.preset(SDTTOptions, "sdtt", "smoke", {"output": tmp_path, "work": tmp_path, "shard": True})
