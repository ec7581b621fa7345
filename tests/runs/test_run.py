"""``bench run`` end to end on nano: stores, continues, refuses, and takes a method from a file."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.cli.running import _note_jail
from harness.engine.generator import Request
from harness.engine.opening import open_engine
from harness.records.schema import find_runs, read_run, read_samples
from harness.sandbox import launch
from suites.suite import load_suite
from tests.commands import answers, bench, started
from tests.helpers import wait_until
from tests.ranks import run_ranks

MINE = """
from methods.base import Forward, RowDecoder, propose

class Greedy(RowDecoder):
    name = "mine"
    summary = "left to right"

    def decode_row(self, row, spec, config):
        while at := row.masked()[:2]:
            logits = yield Forward(feed=(0, row.length), at=at)
            best = propose(logits, row, spec, config)
            row.commit(at, best.ids, best.probability)

METHOD = Greedy()
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quick")
    done = bench("run", "--limit", 2, "--suite", "nano-gsm,nano-code", "-o", root)
    assert done.returncode == 0, done.stderr
    for name in ("vanilla", "fast_dllm", "d2f", "ar"):
        assert name in done.stdout
    return root


def test_run_stores_complete_audited_records(quick: Path) -> None:
    folders = list(find_runs(quick))
    assert len(folders) == 8
    for folder in folders:
        run, samples = read_run(folder), read_samples(folder)
        assert (run.status, len(samples)) == ("complete", 2)
        assert run.audit is not None
        assert run.audit.passed, run.audit
        assert "within_roofline" in [check.name for check in run.audit.checks]
        assert run.roofline is not None
        assert run.summary is not None
        assert 0 < (run.summary.roof_share or 0) < 2
        assert 0.5 < (run.summary.forward_share or 0) + (run.summary.select_share or 0) < 1
        assert folder.parts[-3:] == (run.plan.device_name, run.plan.suite, run.run_id)
        graded_by = None if run.plan.suite == "nano-gsm" else launch.probe()[0]
        assert (run.jail or {}).get("backend") == graded_by, "programs are run, sums are not"
        assert run.jail is None or isinstance(run.jail["weaknesses"], list)
        for sample in samples:
            assert sample.nfe == len(sample.forwards)
            assert None not in (sample.time_s, sample.forward_s, sample.select_s)
            assert min(sample.forward_s or 0, sample.select_s or 0) > 0
            assert (sample.forward_s or 0) + (sample.select_s or 0) < (sample.time_s or 0), (
                "the rest is the harness' own"
            )
            assert sample.positions == sum(query for query, _, _ in sample.forwards)
            assert sample.committed == sum(step >= 0 for step in sample.step_map)
            assert len(sample.output_ids) == len(sample.step_map) == len(sample.confidence)
            assert sample.grading in ("passed", "failed")
    keys = {run.comparability_key for run in map(read_run, folders)}
    assert len(keys) == 2, "all methods of one suite share a table"


def test_what_the_jail_lacks_is_said_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [SimpleNamespace(jail=None), SimpleNamespace(jail=None)]
    cells: Any = [
        SimpleNamespace(suite=SimpleNamespace(needs_code=code), folder=SimpleNamespace(run=run))
        for code, run in zip((True, False), runs, strict=True)
    ]
    strong: Any = SimpleNamespace(backend="bubblewrap", weaknesses=[])
    weak: Any = SimpleNamespace(backend="landlock+seccomp", weaknesses=["a file is seen", "no filter"])
    _note_jail(cells, strong)
    assert capsys.readouterr().err == ""
    _note_jail(cells, weak)
    told = "programs are graded in a weaker jail (landlock+seccomp): a file is seen; no filter\n"
    assert capsys.readouterr().err == told
    assert runs[0].jail == {"backend": "landlock+seccomp", "weaknesses": weak.weaknesses}
    assert runs[1].jail is None


def test_finished_run_is_not_repeated(quick: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in quick.rglob("*.json*")}
    done = bench("run", "--limit", 2, "--suite", "nano-gsm,nano-code", "-o", quick)
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in quick.rglob("*.json*")}


def test_killed_run_continues_with_the_missing_samples(tmp_path: Path) -> None:
    command = ["run", "--method", "fast_dllm", "--suite", "nano-gsm,nano-code", "--limit", "24"]
    assert bench(*command, "-o", tmp_path / "calm").returncode == 0
    rng, seen = random.Random(5), []
    for _ in range(5):
        process = started(*command, "-o", tmp_path / "killed")
        goal = (seen[-1] if seen else 0) + rng.randint(1, 8)
        wait_until(lambda goal=goal: _lines(tmp_path / "killed") >= goal, process)
        time.sleep(rng.uniform(0.0, 0.02))  # somewhere within the next answer
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(_lines(tmp_path / "killed"))
    done = bench(*command, "-o", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert answers(tmp_path / "killed") == answers(tmp_path / "calm")
    assert len(answers(tmp_path / "calm")) == 48
    assert 0 < seen[0] < 48, seen


def test_killed_run_of_two_caches_continues(tmp_path: Path) -> None:
    """Caches that work inside the layers keep state per row and call alone: nothing of it outlives a killed
    process.
    """
    methods = [
        f"semi_ar:cache={cache},num_transfer_tokens=4,max_new_tokens=16"
        for cache in ("d2cache", "dllm_cache")
    ]
    command = [
        "run",
        *(part for method in methods for part in ("--method", method)),
        "--suite",
        "nano-gsm",
        "--limit",
        "4",
    ]
    assert CliRunner().invoke(app, [*command, "-o", str(tmp_path / "calm")]).exit_code == 0
    process = started(*command, "-o", tmp_path / "killed")
    wait_until(lambda: _lines(tmp_path / "killed") >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= _lines(tmp_path / "killed") < 8
    assert CliRunner().invoke(app, [*command, "-o", str(tmp_path / "killed")]).exit_code == 0
    assert answers(tmp_path / "killed") == answers(tmp_path / "calm")
    assert len(answers(tmp_path / "calm")) == 8


def _lines(root: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in root.rglob("samples.jsonl"))


def test_method_file_needs_no_core_edit(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = bench(
        "run", "--method", tmp_path / "mine.py", "--suite", "nano-code", "--limit", 2, "-o", tmp_path / "runs"
    )
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    run = read_run(next(find_runs(tmp_path / "runs")))
    assert run.plan.method_source.startswith("sha256:")
    assert run.summary is not None
    assert run.summary.tpf is not None
    assert run.summary.tpf > 1


def test_batches_give_the_same_answers(quick: Path, tmp_path: Path) -> None:
    done = bench("run", "--limit", 2, "--suite", "nano-gsm,nano-code", "--batch_size", 2, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    fields = ("suite", "method", "doc_id", "output_ids", "nfe", "forwards", "step_map", "correct")
    assert sorted(str([row[key] for key in fields]) for row in answers(tmp_path)) == sorted(
        str([row[key] for key in fields]) for row in answers(quick)
    )


def test_lm_eval_scores_equal(quick: Path, tmp_path: Path) -> None:
    arguments = [
        "--model",
        "dllm",
        "--model_args",
        "pretrained=nano,method=d2f",
        "--tasks",
        "nano-gsm",
        "nano-code",
        "--limit",
        "2",
    ]
    flags = ["--output_path", tmp_path, "--log_samples", "--confirm_run_unsafe_code", "--device", "cpu"]
    done = bench("lm-eval", "run", *arguments, *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    scores = {"nano-gsm": "exact_match,none", "nano-code": "pass@1,create_test"}
    ours = {
        run.plan.suite: run.summary for run in map(read_run, find_runs(quick)) if run.plan.method == "d2f"
    }
    for suite, metric in scores.items():
        summary = ours[suite]
        assert summary is not None
        assert results["results"][suite][metric] == summary.pass_at_1
    assert results["config"]["throughput"]["nfe"] == sum(
        (s.nfe or 0) * s.samples for s in ours.values() if s is not None
    )
    logged = [
        json.loads(line)
        for path in tmp_path.rglob("samples_*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(logged) == 4
    assert all(line["dllm_bench"]["nfe"] > 0 for line in logged)


def test_lm_eval_cache_is_refused(tmp_path: Path) -> None:
    done = bench(
        "lm-eval", "run", "--model", "dllm", "--model_args", "pretrained=nano", "--tasks", "nano-gsm",
        "--use_cache", tmp_path / "c", "--limit", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--use_cache is refused" in done.stderr


LONG = "word " * 4000

BAD = [
    (["run", "--method", "d3f"], "unknown method 'd3f': did you mean d2f?"),
    (["run", "--suite", "humanevil"], "did you mean humaneval"),
    (["run", "--method", "d2f", "--set", "blok_size=8"], "no chosen method has this setting"),
    (
        ["run", "--method", "d2f:skip_threshold=2"],
        "--set skip_threshold=2: Input should be less than or equal to 1",
    ),
    (
        ["run", "--method", "fast_dllm", "--set", "block_length=7"],
        "block_length 7 must divide max_new_tokens 48",
    ),
    (["run", "--model", "./no-such-folder"], "--model takes a folder"),
    (["run", "--model", "nano-ar", "--method", "vanilla"], "has no mask token"),
    (["run", "--method", "vanilla", "--adapter", "GOLDEN/dream_lora_tiny"], "trained for 'dream_tiny'"),
    (["run", "--method", "ar", "--dtype", "fp4"], "--dtype 'fp4' is unknown"),
    (["run", "--stop-rule", "never"], "use harness or reference"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[" ".join(arguments[1:]) for arguments, _ in BAD])
def test_bad_input_is_one_clear_line(arguments: list[str], text: str, tmp_path: Path, golden: Path) -> None:
    arguments = [argument.replace("GOLDEN", str(golden)) for argument in arguments]
    suite = [] if "--suite" in arguments else ["--suite", "nano-gsm"]
    done = bench(*arguments, *suite, "--limit", 1, "-o", tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("bench: error: ")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_prompt_longer_than_the_context(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"text": LONG}) + "\n")
    done = bench("decode", "--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert "exceed the model's context of 2048" in done.stderr


def test_corrupt_run_file(quick: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(quick, tmp_path / "runs")
    broken = next(find_runs(tmp_path / "runs"))
    (broken / "run.json").write_text('{"run_id": ')
    done = bench("run", "--limit", 2, "--suite", "nano-gsm,nano-code", "-o", tmp_path / "runs")
    assert done.returncode == 2
    assert "run.json is damaged" in done.stderr
    assert "--fresh" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_as_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = bench("run", "--method", "ar", "--suite", "nano-gsm", "--limit", 1, "-o", tmp_path / "runs")
    assert done.returncode == 2
    assert "--output_path" in done.stderr


def test_output_that_cannot_be_written() -> None:
    done = bench("run", "--method", "ar", "--suite", "nano-gsm", "--limit", 1, "-o", "/proc/runs")
    assert done.returncode == 2
    assert "choose another folder with --output_path" in done.stderr


def test_two_ranks_share_the_documents(tmp_path: Path) -> None:
    arguments = [
        "--model",
        "dllm",
        "--model_args",
        "pretrained=nano,method=d2f",
        "--tasks",
        "nano-gsm",
        "--limit",
        "3",
        "--device",
        "cpu",
    ]
    flags = ["lm-eval", "run", *arguments, "--output_path", str(tmp_path), "--log_samples"]
    run_ranks(2, *flags)
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    assert results["config"]["throughput"]["samples"] == 3, "padding requests are not counted"
    logged = [
        json.loads(line)
        for path in tmp_path.rglob("samples_*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted(line["doc_id"] for line in logged) == [0, 1, 2]
    alone = open_engine("d2f", "nano").generator
    suite = load_suite("nano-gsm")
    requests = [Request(suite.prompt(doc), alone.canvas(suite.canvas)) for _, doc in suite.docs(3)]
    (answers,) = alone.run(requests, 3)
    for line, answer in zip(sorted(logged, key=itemgetter("doc_id")), answers, strict=True):
        assert answer.decoded is not None
        told = line["resps"][0][0], line["dllm_bench"]["nfe"], line["dllm_bench"]["positions"]
        assert told == (answer.text, answer.decoded.nfe, answer.decoded.positions)
