"""``--continuous`` and ``--attention`` through ``bench run``: answers stay; the records say what ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.schema import Run, Sample, find_runs, read_run, read_samples
from harness.statistics.batches import clusters
from tests.commands import answers, bench


def run(root: Path, *words: object, limit: int = 9) -> tuple[Run, list[Sample]]:
    done = bench("run", "--method", "d2f", "--suite", "nano-gsm", "--limit", limit, "-o", root, *words)
    assert done.returncode == 0, done.stderr
    (folder,) = find_runs(root)
    return read_run(folder), read_samples(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    root = tmp_path_factory.mktemp("alone")
    return root, run(root)[0]


def test_continuous_batching_answers_as_batch_1(alone: tuple[Path, Run], tmp_path: Path) -> None:
    record, samples = run(tmp_path, "--batch_size", 2, "--continuous")
    assert (record.plan.batch_size, record.plan.stream) == (2, 8)
    assert record.comparability["stream"] == 8
    assert record.audit is not None
    assert record.audit.passed, record.audit
    unlike = {"run_id", "batch", "rows", "order"}
    assert [
        {name: value for name, value in row.items() if name not in unlike} for row in answers(tmp_path)
    ] == [{name: value for name, value in row.items() if name not in unlike} for row in answers(alone[0])]
    # Eight prompts of one decode call are one observation of its clock; the ninth waited for nobody.
    assert [sample.rows for sample in samples] == [8] * 8 + [1]
    assert [len(group) for group in clusters([samples], range(9))] == [8, 1]
    assert [sample.admitted_s is None for sample in samples] == [False] * 8 + [True]
    assert all((sample.latency_s or 0) > 0 for sample in samples)
    assert record.summary is not None
    assert None not in (record.summary.tps, record.summary.latency_p50, record.summary.latency_p99)


def test_what_attention_ran_is_recorded(alone: tuple[Path, Run], tmp_path: Path) -> None:
    assert (alone[1].plan.attention, alone[1].kernels) == ("sdpa", ["sdpa"])
    done = bench("run", "--method", "d2f", "--suite", "nano-gsm", "--attention", "flash", "-o", tmp_path)
    assert done.returncode == 2
    assert "--attention flash runs on CUDA" in done.stderr
    assert not list(find_runs(tmp_path))
    record, _ = run(tmp_path, "--attention", "flex", limit=2)
    assert (record.plan.attention, record.kernels) == ("flex", ["flex"])
    assert record.comparability["attention"] == "flex"
    text = [row["text"] for row in answers(tmp_path)]
    assert text == [row["text"] for row in answers(alone[0])][:2]
