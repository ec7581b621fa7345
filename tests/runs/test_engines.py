"""``bench run --engine`` against stand-ins that speak the engines' Python interfaces; no engine has run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import app  # noqa: F401 - imported once, before sys.modules is touched
from harness.engine.served import generator
from harness.model.outline import read_outline
from harness.records.schema import Run, Sample, find_runs, read_run, read_samples
from harness.runs.plan import planned_fields
from harness.runs.recheck import Stored, _audit  # pyright: ignore[reportPrivateUsage]
from reports.leaderboard import section
from reports.load import read_stored
from reports.table import build
from tests import engines
from tests.commands import bench
from tests.conftest import GOLDEN

LIMIT = ("--limit", 2, "--suite", "nano-code", "--threads", 1)


@pytest.fixture
def spoken() -> Iterator[engines.Spoken]:
    generator._loaded.cache_clear()
    yield engines.Spoken()
    generator._loaded.cache_clear()


def stored(root: Path) -> tuple[Run, list[Sample]]:
    (folder,) = find_runs(root)
    return read_run(folder), read_samples(folder)


@pytest.fixture
def lmdeploy(spoken: engines.Spoken, monkeypatch: pytest.MonkeyPatch) -> engines.Spoken:
    monkeypatch.setitem(sys.modules, "lmdeploy", engines.lmdeploy(spoken))
    return spoken


@pytest.fixture
def sglang(spoken: engines.Spoken, monkeypatch: pytest.MonkeyPatch) -> engines.Spoken:
    monkeypatch.setitem(sys.modules, "sglang", engines.sglang(spoken))
    return spoken


def test_an_engine_is_clocked_and_graded_and_nothing_else(
    lmdeploy: engines.Spoken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = bench("run", "--engine", "lmdeploy", *LIMIT, "--set", "block_length=4", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    run, samples = stored(tmp_path)
    assert [sample.output_ids for sample in samples] == lmdeploy.answers[-2:]
    assert all(sample.correct for sample in samples)
    for sample in samples:
        assert (sample.nfe, sample.positions, sample.kv_read, sample.forward_s) == (None,) * 4
        assert (sample.forwards, sample.step_map) == ([], [])
        assert sample.time_s is not None
        assert sample.time_s > 0
        assert sample.latency_s == sample.time_s
    assert run.summary is not None
    assert (run.summary.tpf, run.summary.nfe, run.summary.work, run.summary.roof_share) == (None,) * 4
    assert run.summary.tps == sum(one.useful or 0 for one in samples) / run.summary.time_s

    assert (run.plan.engine, run.plan.dtype, run.plan.stop_rule) == (
        "lmdeploy 0.10.2",
        "bfloat16",
        "reference",
    )
    assert run.comparability["engine"] == "lmdeploy 0.10.2"
    assert "engine" not in run.plan.model_copy(update={"engine": None}).model_dump()
    assert "engine" not in planned_fields(run.plan.model_copy(update={"engine": None}))
    assert run.audit is not None
    assert [check.name for check in run.audit.checks] == ["prompt_tokens_equal", "answer_within_canvas"]
    assert run.audit.passed
    assert {"nfe_equals_hook_count", "weights_unchanged"} < set(run.audit.not_made)
    assert "not measured by the harness: the engine decodes by itself" in done.stdout

    (start,) = lmdeploy.started
    assert (start["dtype"], start["dllm_block_length"], start["max_batch_size"]) == ("bfloat16", 4, 1)
    assert not lmdeploy.calls[0]["do_sample"]
    assert lmdeploy.closed == 1


def test_an_engines_run_is_continued_reported_and_checked_again(
    sglang: engines.Spoken, tmp_path: Path
) -> None:
    command = (
        "run",
        "--engine",
        "sglang",
        *LIMIT,
        "-b",
        2,
        "--set",
        "threshold=0.9",
        "-o",
        tmp_path,
    )
    assert bench(*command).returncode == 0
    (folder,) = find_runs(tmp_path)
    run, samples = stored(tmp_path)
    assert [sample.rows for sample in samples] == [2, 2]
    assert samples[0].latency_s == pytest.approx(sum(sample.time_s or 0 for sample in samples))
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text(lines[0])
    (folder / "run.json").write_text(
        run.model_copy(update={"status": "running", "audit": None}).model_dump_json()
    )

    again = bench(*command)
    assert again.returncode == 0, again.stderr
    assert [sample.text for sample in stored(tmp_path)[1]] == [sample.text for sample in samples]
    assert (folder / "samples.jsonl").read_text().splitlines(keepends=True)[0] == lines[0]
    assert sglang.started[0]["config"] == {"threshold": 0.9}
    assert sglang.started[0]["dllm_algorithm"] == "LowConfidence"
    assert sglang.calls[0]["temperature"] == 0.0
    assert _audit(Stored(folder, *stored(tmp_path))).startswith("passed; 2 of 2 checks")
    text = section(build([read_stored(folder)])[0])
    assert "sglang 0.5.9 decodes by itself" in text
    assert "| n/a |" in text


def test_a_prompt_that_the_engine_reads_otherwise_fails_the_audit(
    spoken: engines.Spoken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lmdeploy", engines.lmdeploy(spoken, prompt_more=1))
    done = bench("run", "--engine", "lmdeploy", *LIMIT, "-o", tmp_path)
    run, samples = stored(tmp_path)
    assert {sample.status for sample in samples} == {"audit_failed"}
    assert run.audit is not None
    assert not run.audit.passed
    assert "failed the audit (prompt_tokens_equal)" in done.stdout


def test_an_engine_without_ids_is_an_error_of_its_answers(
    spoken: engines.Spoken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sglang", engines.sglang(spoken, with_ids=False))
    assert bench("run", "--engine", "sglang", *LIMIT, "-o", tmp_path).returncode == 0
    assert {sample.error for sample in stored(tmp_path)[1]} == {
        "EngineError: sglang gave no output_ids: install a later version (pip install -U sglang)"
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--engine", "sglang"), "pip install sglang"),
        (("--engine", "vllm"), "--engine takes lmdeploy, sglang"),
        (("--engine", "lmdeploy", "--method", "d2f"), "leave --method out"),
        (("--engine", "lmdeploy", "--no-isolate", "--preset", "published"), "leave --preset, --isolate out"),
        (("--engine", "lmdeploy", "--dtype", "int8"), "takes auto, bfloat16, float16"),
        (("--engine", "lmdeploy", "--adapter", "nano-d2f"), "leave --adapter out"),
        (("--engine", "lmdeploy", "--set", "threshold=0.9"), "no chosen method has this setting"),
        (("--engine", "lmdeploy", "--suite", "nano-code-ra"), "leave --engine out"),
    ],
)
def test_what_an_engine_cannot_do_is_named(
    words: tuple[str, ...], told: str, lmdeploy: engines.Spoken, tmp_path: Path
) -> None:
    sys.modules.pop("sglang", None)
    suite = () if "--suite" in words else ("--suite", "nano-code")
    done = bench("run", *words, *suite, "-o", tmp_path / "runs")
    assert done.returncode == 2, done.stdout
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_a_mixture_of_experts_can_be_served(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llada2_tiny", tmp_path / "moe")
    spec, raw = read_outline(tmp_path / "moe")
    assert (spec.max_positions, spec.vocab_size, raw["num_experts"]) == (2048, 200, 8)
