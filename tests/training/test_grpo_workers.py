"""One worker in this process, one under Ray and two under Ray make the same update; all weights and
adapters.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("verl", reason="reinforcement learning needs the extra 'train' (verl)")

from verl import DataProto  # pyright: ignore[reportMissingImports]

from methods.training.grpo.launch import workers
from methods.training.grpo.options import GRPOOptions
from methods.training.grpo.run import worker_options
from tests.grpo import tiny_checkpoint

# Sums of the same float32 numbers in another order; AdamW's first steps are lr * sign(gradient), which
# enlarges what is next to zero.
SHARDS_DIFFER_BY = 2e-4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def prompts() -> DataProto:
    lengths = torch.tensor([5, 5, 8, 8])
    ids = torch.randint(5, 700, (4, 8), generator=torch.Generator().manual_seed(0))
    ids = torch.where(torch.arange(8)[None] < lengths[:, None], ids, 0)
    return DataProto.from_dict(
        {
            "prompts": ids,
            "prompt_length": lengths,
            "repeat": torch.arange(4) % 2,
            "seed": torch.arange(4) + 11,
        }
    )


def one_update(
    options: GRPOOptions, tiny: Path, folder: Path, count: int, ray: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Exported weights after a step and a resumed step, and what the workers gave on the way."""
    with workers(worker_options(options, tiny), count, ray) as group:
        assert len(group.init()) == count
        answers = group.generate(prompts())
        data = prompts().union(answers)
        names = ("prompts", "prompt_length", "outputs", "steps", "seed", "scored")
        batch = {name: data.batch[name] for name in names}
        for which in ("old", "ref"):
            batch[which] = group.log_probs(DataProto.from_dict(batch, meta_info={"which": which})).batch[
                which
            ]
        batch["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5])
        meta = {"tokens": int(batch["scored"].sum()), "lr": 1e-3}
        sums = group.update(DataProto.from_dict(batch, meta_info=meta)).batch
        group.save(str(folder / "state.pt"), 1, 2.0)
        group.update(DataProto.from_dict(batch, meta_info=meta))
        assert {tuple(found) for found in group.load(str(folder / "state.pt"))} == {(1, 2.0)}
        group.update(DataProto.from_dict(batch, meta_info=meta))
        group.export(str(folder / "out"))
        peak = group.memory()[0]["resident"]
    stem = "adapter_model" if options.rank else "model"
    found = {
        "outputs": answers.batch["outputs"],
        "old": batch["old"],
        "ratio": sums["ratio"],
        "count": sums["count"],
        "peak": peak,
    }
    return load_file(str(folder / "out" / f"{stem}.safetensors")), found


@pytest.fixture
def options(tmp_path: Path) -> GRPOOptions:
    return GRPOOptions(
        model="tiny",
        suite="nano-gsm",
        output=tmp_path,
        work=tmp_path,
        settings={"temperature": 1.0},
        canvas=8,
        group=2,
        inner=2,
        lr=1e-3,
    )


def digest(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def test_one_ray_worker_equals_this_process_to_the_bit(
    options: GRPOOptions, tiny: Path, tmp_path: Path
) -> None:
    local, here = one_update(options, tiny, tmp_path / "local", 1, ray=False)
    remote, there = one_update(options, tiny, tmp_path / "remote", 1, ray=True)
    assert digest(local) == digest(remote)
    for name in ("outputs", "old", "ratio"):
        assert torch.equal(here[name], there[name])
    assert torch.equal(here["ratio"][:, 0], here["count"][:, 0])
    assert not torch.equal(here["ratio"][:, 1], here["count"][:, 1])


@pytest.mark.parametrize("rank", [0, 4], ids=["sharded", "adapter"])
def test_two_ray_workers_equal_one(options: GRPOOptions, tiny: Path, tmp_path: Path, rank: int) -> None:
    options = replace(options, rank=rank, sync_every=1)
    local, here = one_update(options, tiny, tmp_path / "local", 1, ray=False)
    remote, there = one_update(options, tiny, tmp_path / "remote", 2, ray=True)
    assert torch.equal(here["outputs"], there["outputs"])
    assert torch.allclose(here["old"], there["old"], atol=1e-4)
    assert local.keys() == remote.keys()
    start = load_file(str(tiny / "model.safetensors")) if not rank else {}
    for name, value in local.items():
        assert float((value - remote[name]).abs().max()) < SHARDS_DIFFER_BY
        if name in start and "layernorm" not in name:
            assert float((value - start[name].float()).abs().max()) > 5 * SHARDS_DIFFER_BY
