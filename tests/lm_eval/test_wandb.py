"""``--wandb``: everything is logged offline, and without the package or an account one line says what to
do.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.records.schema import find_runs, read_samples
from harness.runs.wandb_log import WandbError, package
from tests.commands import BENCH

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="the extra wandb is not installed")
COMMAND = [
    "run",
    "--wandb",
    "--method",
    "ar",
    "--method",
    "vanilla:tokens_per_step=8",
    "--suite",
    "nano-gsm",
    "--limit",
    "2",
]


def bench(output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    settings = {**clean, "WANDB_DIR": str(output), "HOME": str(output), **environment}
    return subprocess.run(
        [*BENCH, *COMMAND, "-o", str(output / "runs")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False, env=settings,
    )  # fmt: skip


def test_without_the_package_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(WandbError, match=r"pip install 'dllm-bench\[wandb\]'"):
        package()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="the extra wandb is installed")
def test_the_flag_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = bench(tmp_path)
    assert done.returncode == 2
    assert "pip install 'dllm-bench[wandb]'" in done.stderr
    assert not (tmp_path / "runs").exists()


@needs_wandb
def test_without_an_account_the_message_names_the_offline_mode(tmp_path: Path) -> None:
    done = bench(tmp_path)
    assert done.returncode == 2, done.stderr
    assert "WANDB_MODE=offline" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@needs_wandb
def test_offline_run_holds_config_samples_summary_plots_and_viewer(tmp_path: Path) -> None:
    done = bench(tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("*.wandb")
    logged = _read(file)
    assert set(logged["config"]) - {"_wandb"} == {"nano-gsm/ar", "nano-gsm/vanilla tokens_per_step=8"}
    assert logged["config"]["nano-gsm/ar"]["plan"]["method"] == "ar"
    for folder in find_runs(tmp_path / "runs"):
        samples = sorted(read_samples(folder), key=lambda sample: sample.order)
        name = "nano-gsm/ar" if samples[0].method == "ar" else "nano-gsm/vanilla tokens_per_step=8"
        for metric in ("nfe", "useful", "time_s", "select_s"):
            assert [
                row[f"{name}/{metric}"] for row in logged["history"] if f"{name}/{metric}" in row
            ] == pytest.approx([getattr(sample, metric) for sample in samples])
        assert logged["summary"][name]["samples"] == 2
    assert "viewer" in logged["summary"]
    assert sum(key.startswith("plots/nano-gsm/") for key in logged["summary"]) == 5
    page = next(tmp_path.rglob("viewer*.html")).read_text()
    assert page.count('type="application/gzip"') == 2, "both runs can be replayed"


def _records(file: Path) -> Iterator[bytes]:
    """Records of W&B's transaction log: LevelDB's log format (blocks of 32 KiB) behind a file header of 7
    bytes.
    """
    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield parts
            parts = b""


def _read(file: Path) -> dict[str, Any]:
    """Config, history rows and summary that W&B stored."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    for data in _records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found["config"] |= _items(record.run.config.update)
        if record.HasField("history"):
            found["history"].append(_items(record.history.item))
        found["summary"] |= _items(record.summary.update)
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
