"""``bench doctor``, and the warning before a measurement on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import doctor
from harness.measuring.busy import Business, look, warning
from tests.commands import bench


def test_a_busy_machine_is_told_with_the_flags_to_use() -> None:
    told = warning(Business(1.7, 2, 9.5))
    assert told is not None
    assert "other processes use 1.7 of 2 cores, load 9.5" in told
    assert "--threads 1 and --protocol standard" in told
    fewer = [
        warning(Business(1.7, 2, 9.5), threads, turns)
        for threads, turns in ((1, False), (2, True), (1, True))
    ]
    assert [str(one).partition("quiet")[2] for one in fewer] == [
        ", or give --protocol standard (methods in turns, times repeated)",
        ", or give --threads 1",
        "",
    ]
    assert warning(Business(0.3, 2, 0.4)) is None
    assert warning(Business(0.3, 2, None)) is None


def test_look_counts_the_cores_that_this_process_may_use() -> None:
    seen = look(0.01)
    assert 0 <= seen.used <= seen.cores
    assert seen.cores >= 1


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "look", lambda: Business(0.0, 2, 0.1))


@pytest.mark.usefixtures("quiet")
def test_doctor_prints_what_there_is_and_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: ("bubblewrap", {}))
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "verl" else object())
    done = bench("doctor", "-o", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    lines = {line[6:15].strip(): (line[:6].strip(), line[15:]) for line in done.stdout.splitlines()}
    assert {"version", "cores", "load", "memory", "disk", "GPU", "jail", *doctor.EXTRAS} == set(lines)
    assert lines["load"] == ("ok", "quiet (other processes use 0.0 of 2 cores, load 0.1)")
    assert lines["jail"][1].startswith("bubblewrap")
    assert lines["train"] == ("note", "not installed: bench train grpo (pip install 'dllm-bench[train]')")


@pytest.mark.usefixtures("quiet")
def test_doctor_fails_without_a_jail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: ("none", {"landlock": "kernel too old"}))
    done = bench("doctor", "-o", tmp_path)
    assert done.returncode == 1
    assert (
        "lacks jail     none (landlock: kernel too old): suites of programs need --allow-unsafe-code"
        in done.stdout
    )
