"""``bench run`` and log-likelihood tasks on a stand-in for a GPU, from the command to the stored run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.lm_eval.model import DiffusionLM
from harness.measuring import clock, memory
from harness.records.schema import Run, Sample, find_runs, read_run, read_samples
from tests.card import CARD, Card
from tests.commands import bench
from tests.conftest import GOLDEN

METHODS = ("fast_dllm:cache=dual", "ar", "vanilla:tokens_per_step=4", "d2f")
CANVAS = 8


@contextmanager
def on(device: str) -> Iterator[str]:
    with Card() if device == CARD.type else nullcontext():
        yield device


def runs(
    root: Path, device: str, dtype: str, methods: tuple[str, ...]
) -> dict[str, tuple[Run, list[Sample]]]:
    """Three problems in batches of two: a ragged one, and one row left over."""
    words: list[object] = [word for method in methods for word in ("--method", method)]
    size = ("--suite", "nano-gsm", "--limit", 3, "--batch_size", 2, "--set", f"max_new_tokens={CANVAS}")
    with on(device):
        done = bench("run", *words, *size, "--device", device, "--dtype", dtype, "-o", root)
    assert done.returncode == 0, done.stderr
    found = [(read_run(folder), read_samples(folder)) for folder in find_runs(root)]
    return {run.plan.method: (run, samples) for run, samples in found}


@pytest.mark.parametrize(("dtype", "methods"), [("float32", METHODS[:2]), ("bfloat16", METHODS[2:])])
def test_a_run_from_end_to_end(dtype: str, methods: tuple[str, ...], tmp_path: Path) -> None:
    """Every column is there, memory too; in float32 the ids are the CPU's."""
    card = runs(tmp_path / "card", CARD.type, dtype, methods)
    assert len(card) == len(methods)
    for run, samples in card.values():
        assert (run.status, run.plan.dtype, run.plan.batch_size) == ("complete", dtype, 2)
        assert run.audit is not None
        assert run.audit.passed, run.audit
        assert run.summary is not None
        assert (run.weights_bytes or 0) > 0
        assert (run.summary.peak_memory_bytes or 0) > (run.weights_bytes or 0)
        assert run.summary.call_memory_bytes is not None
        assert sorted(sample.rows or 0 for sample in samples) == [1, 2, 2]
        assert all((sample.computed or 0) >= (sample.positions or 1) for sample in samples)
    if dtype == "float32":
        cpu = runs(tmp_path / "cpu", "cpu", dtype, methods)
        for name, (_, samples) in card.items():
            assert [one.output_ids for one in samples] == [one.output_ids for one in cpu[name][1]]


@pytest.mark.parametrize(("model", "method"), [("dream_tiny", "vanilla"), ("qwen3_tiny", "ar")])
def test_log_likelihoods_are_those_of_the_cpu(model: str, method: str) -> None:
    """In float32; two ways of attention differ by the order of sums."""
    pairs = [([5, 6, 7, 8, 9], [9, 20]), ([5], [9, 20, 21]), ([5, 6, 7], [30])]
    requests: Any = [(("", ""), prefix, target) for prefix, target in pairs]

    def found(device: str) -> list[float]:
        with on(device):
            lm = DiffusionLM(
                str(GOLDEN / model),
                method,
                dtype="float32",
                device=device,
                batch_size=2,
                mc_num=6,
                mc_batch_size=4,
            )
            return [value for value, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]

    assert found(CARD.type) == pytest.approx(found("cpu"), abs=1e-4)


def test_memory_and_clock_ask_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stand-in, which is no CUDA device, passes by."""
    asked: list[str] = []

    def answer(name: str, value: Any) -> None:
        monkeypatch.setattr(torch.cuda, name, lambda device: (asked.append(f"{name} {device}"), value)[1])

    for name, value in (
        ("reset_peak_memory_stats", None),
        ("memory_allocated", 5),
        ("max_memory_allocated", 7),
        ("mem_get_info", (11, 13)),
        ("synchronize", None),
    ):
        answer(name, value)
    cuda = torch.device("cuda:1")
    assert memory.reset_peak(cuda)
    assert (memory.level(cuda), memory.peak(cuda), memory.free(cuda)) == (5, 7, 11)
    clock.synchronise(cuda)
    assert len(asked) == 5
    assert all(one.endswith("cuda:1") for one in asked)
