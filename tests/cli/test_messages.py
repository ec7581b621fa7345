"""Mistakes are answered with one line that names the flag, key or command to change."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.cli import app
from harness.cli.running import unanswered
from harness.decoding.settings import setting_text
from harness.engine.loader import load
from harness.model.device import pick_device
from harness.model.load import resolve
from harness.model.spec import CheckpointError
from harness.runs.sweep import SweepError, cells, read_sweep
from tests.commands import bench
from tests.synthetic_runs import Fake, write_fake

SWEEP = "methods: [{method: fast_dllm, settings: {threshold: [null, 0.9]}}]\n"


def test_a_mistaken_adapter_is_no_mistake_of_the_model() -> None:
    with pytest.raises(CheckpointError, match=r"'\./nothing' not found: --adapter takes a folder"):
        load("nano", adapter="./nothing", lazy=True)
    with pytest.raises(CheckpointError, match=r"'\./nothing' not found: --model takes a folder"):
        resolve("./nothing")


def test_an_adapter_that_cannot_be_fetched_names_both_ways_out() -> None:
    with pytest.raises(CheckpointError, match="pass --adapter FOLDER, or --adapter none for the bare"):
        resolve("nobody/no-such-adapter", "--adapter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: [nano-gsm]\n", "unknown key suite: did you mean suites?"),
        ("suites: [nano-gsm]\nflavour: 1\n", "unknown key flavour: known are model, methods"),
        ("suites: []\n", "suites: List should have at least 1 item"),
    ],
)
def test_a_sweeps_unknown_key_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP + text)
    with pytest.raises(SweepError) as caught:
        read_sweep(file)
    assert message in str(caught.value)


def test_project_takes_a_run_id(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=4))
    done = bench("project", folder.name, "--runs", tmp_path, "--device", "h100")
    assert done.returncode == 0, done.stderr
    assert "Upper bounds, not measurements" in done.stdout
    done = bench("project", "none-such", "--runs", tmp_path)
    assert done.returncode == 2
    assert "no run folder of that name below" in done.stderr
    assert "--runs" in done.stderr


def test_prompts_without_an_answer_are_told(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=2))
    lines = (folder / "samples.jsonl").read_text().splitlines()
    broken = lines[1].replace('"error":null', '"error":"prompt of 900 tokens leaves no room"')
    (folder / "samples.jsonl").write_text(f"{lines[0]}\n{broken}\n")

    def cell(errors: int) -> Any:
        run = SimpleNamespace(summary=SimpleNamespace(errors=errors, samples=2))
        names = {"method": SimpleNamespace(name="d2f"), "suite": SimpleNamespace(name="nano-gsm")}
        return SimpleNamespace(folder=SimpleNamespace(run=run, path=folder), **names)

    assert unanswered(cell(0)) is None
    told = unanswered(cell(1))
    assert told is not None
    assert told.startswith("d2f on nano-gsm: 1 of 2 prompts got no answer")
    assert told.endswith("prompt of 900 tokens leaves no room")


def test_empty_prompts_are_refused(tmp_path: Path) -> None:
    done = bench("generate", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the prompt is empty" in done.stderr
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n")
    done = bench("decode", "--prompts", file, "--output", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert f"--prompts {file} holds no prompt" in done.stderr


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/samples.jsonl")

    monkeypatch.setattr("harness.cli.app", full)
    done = bench("list")
    assert done.returncode == 2
    assert done.stderr == (
        "bench: error: no space left on the disk for runs/samples.jsonl: make room and give the same "
        "command again\n"
    )
    assert app is not full


def test_nobody_is_warned_of_a_gpu_that_was_not_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pick_device(None)
    assert caplog.records == []


def test_null_is_spelled_in_one_way(tmp_path: Path) -> None:
    assert setting_text("cache", None) == setting_text("cache", "none") == "cache=none"
    assert setting_text("top_k", True) == "top_k=true"
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP + "suites: [nano-gsm]\n")
    labels = [cell.label for cell in cells(read_sweep(file), tmp_path)]
    assert labels == ["nano-gsm fast_dllm (threshold=none)", "nano-gsm fast_dllm (threshold=0.9)"]


def test_a_dry_run_without_ray_shows_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from methods.training.grpo import run
    from methods.training.grpo.options import load_options

    monkeypatch.setitem(cast(Any, sys.modules), "ray", None)
    # Its comparison of the problems with every suite takes seconds and has tests of its own.
    monkeypatch.setattr(run, "load_tasks", lambda *_: None)
    run.dry_run(load_options("nano", "nano-gsm", output=tmp_path / "policy", work=tmp_path / "work"))
    told = capsys.readouterr().out
    assert "no step was taken: reinforcement learning needs verl" in told
    assert not list(tmp_path.iterdir())
