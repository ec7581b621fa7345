"""``make gpu``: ten minutes at most, every step ready on a stand-in for a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reports.speed import load_speed
from tests.tools import gpu


def test_the_steps_fit_into_ten_minutes_and_have_names_of_their_own(tmp_path: Path) -> None:
    steps = gpu.steps(tmp_path, "cuda")
    assert sum(step.limit_s for step in steps) <= 600
    assert len({step.name for step in steps}) == len(steps)
    told = " ".join(map(gpu.told, steps))
    assert str(tmp_path) not in told
    assert all(part in told for part in ("pytest -m gpu", "--rows 1,16", "--replay results/leaderboard"))
    assert all(part in told for part in ("--attention flash", "--compile"))


def test_steps_run_on_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Plots have tests of their own, and no tensors.
    monkeypatch.setattr("reports.speed_page.write_report", lambda *_: [])
    names = ("dream7b-replay", "dream7b-compiled", "dream7b-block-causal", "tests", "nano-run-16")
    words = [str(tmp_path), "--dry-run", *(word for name in names for word in ("--only", name))]
    status = gpu.main(words)
    summary = json.loads((tmp_path / "summary.json").read_text())
    logs = "\n".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert (status, summary["dry_run"]) == (0, True), logs
    assert [step["status"][:7] for step in summary["steps"]] == [
        "ok",
        "not run",
        "not run",
        "ok",
        "ok",
    ]
    assert "nothing here is a measurement" in (tmp_path / "summary.md").read_text()
    tables = load_speed(tmp_path / "speed")
    assert {table.run.plan.device for table in tables} == {"meta"}
    assert sorted(len(table.lines) for table in tables) == [2, 8]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([str(tmp_path / "gpu")]) == 2
    assert "finds no CUDA device here: nothing was measured" in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()


def test_a_step_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether it was started deaf to the interrupt or not.
    monkeypatch.setattr(gpu, "GRACE_S", 0.1)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL
    )
    assert gpu._wait(process, 0.1) == "stopped after 0.1 s"
    assert process.returncode
