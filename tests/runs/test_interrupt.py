"""Ctrl-C and a full disk: one line that says what is safe and how to go on."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.records.schema import find_runs, read_samples
from tests.commands import answers, bench, started
from tests.helpers import wait_until


def test_ctrl_c_says_what_is_safe_and_the_same_command_continues(tmp_path: Path) -> None:
    command = ["run", "--method", "vanilla", "--suite", "nano-gsm", "--limit", "8", "-o", str(tmp_path)]
    process = started(*command)
    wait_until(lambda: any(len(read_samples(folder)) > 1 for folder in find_runs(tmp_path)), process)
    process.send_signal(signal.SIGINT)
    told = process.errors()
    stored = sum(len(read_samples(folder)) for folder in find_runs(tmp_path))
    assert process.returncode == 130
    line = told.strip().splitlines()[-1]
    assert (
        line
        == f"bench: interrupted; all {stored} finished samples of 8 are safe; the same command continues "
        "with the missing ones"
    )
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("*.lock"))
    done = bench(*command)
    assert done.returncode == 0, done.stderr
    assert [row["doc_id"] for row in answers(tmp_path)] == list(range(8))


def test_ctrl_c_in_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "methods: [{method: vanilla}]\nsuites: [nano-gsm]\nbatch_sizes: [1, 2]\nlimit: 40\n"
    )
    command = ["sweep", str(tmp_path / "s.yaml"), "-o", str(tmp_path / "out")]
    process = started(*command)
    wait_until(lambda: any((tmp_path / "out").rglob("sweep-logs/*.log")), process)
    process.send_signal(signal.SIGINT)
    told = process.errors()
    assert process.returncode == 130
    assert (
        "bench: interrupted; 0 of 2 cells are done and every finished sample of the others is safe; the same "
        "command continues" in told
    )


def test_a_full_disk_anywhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x")

    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err
        == "bench: error: no space left on the disk for runs/x: make room and give the same command again\n"
    )
