"""Boards merged from several machines: rows of different conditions never meet in one table or verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.records.submission import MANIFEST
from reports.boards import boards
from reports.leaderboard import leaderboard
from reports.load import ReportError, load
from reports.site import site
from reports.table import Table, build
from tests.reports.test_reports_cli import bench
from tests.synthetic_runs import Fake, write_fake

DOCUMENTS = 12
ROWS = [
    Fake("vanilla", {"tokens_per_step": 1}, documents=DOCUMENTS),
    Fake("fast_dllm", {"threshold": 0.9}, documents=DOCUMENTS, second_per_token=0.004),
]
ELSEWHERE: list[dict[str, Any]] = [
    {"device_name": "other-cpu"},
    {"dtype": "bfloat16"},
    {"threads": 8},
    {"template": "words"},
    {"protocol": "standard"},
    {"cpu": "another processor under the same name"},
]


def submitted(folder: Path, **changes: Any) -> Path:
    """A submission of two rows, the other machine's twice as fast."""
    for row in ROWS:
        speed = row.second_per_token / (2 if changes else 1)
        write_fake(folder, replace(row, **changes, second_per_token=speed))
    (folder / MANIFEST).write_text(json.dumps({"of": folder.name}))
    return folder


def speeds(table: Table) -> list[float]:
    return [row.verdict.speedup.estimate or 0.0 for row in table.rows if row.verdict]


@pytest.mark.parametrize("changes", ELSEWHERE, ids=lambda changes: next(iter(changes)))
def test_two_machines_make_two_tables(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, two = submitted(tmp_path / "one"), submitted(tmp_path / "two", **changes)
    tables = build(load(one, two))
    assert len(tables) == len({table.key for table in tables}) == 2
    for table in tables:
        origins = {row.stored.folder.relative_to(tmp_path).parts[0] for row in table.rows}
        assert len(origins) == 1, "rows of one machine only"
        assert len(table.rows) == 2
        assert table.baseline is not None
        (speed,) = speeds(table)
        assert 2.2 < speed < 2.8, "over the vanilla row of its own machine"
    alone = [speeds(table) for folder in (one, two) for table in build(load(folder))]
    assert sorted(map(speeds, tables)) == sorted(alone), "merging changes no figure"
    assert len({table.heading for table in tables} | {table.key for table in tables}) >= 3


def test_the_same_settings_submitted_twice_stand_apart(tmp_path: Path) -> None:
    """Two machines of one name and one processor: nothing but the submission tells them apart."""
    first = submitted(tmp_path / "first")
    second = submitted(tmp_path / "second")
    one, two = build(load(first, second))
    assert [len(table.rows) for table in (one, two)] == [2, 2]
    assert "submission" in one.heading
    assert one.heading != two.heading
    text = leaderboard(load(first, second))
    assert text.count("## nano-gsm, submission") == 2
    assert "does the order of methods depend on the prompt" not in text
    files = site(boards(tmp_path, load(tmp_path)))
    assert len([name for name in files if name.startswith("samples/")]) == 4, "no file of samples is shared"


def test_one_machine_of_one_name_makes_one_table(tmp_path: Path) -> None:
    """Without manifests, runs of one machine share a table, wherever they lie."""
    one, two = write_fake(tmp_path / "one", ROWS[0]), write_fake(tmp_path / "two", ROWS[1])
    (table,) = build(load(one, two))
    assert (len(table.rows), table.apart, table.heading) == (2, {}, "nano-gsm")


def test_report_takes_several_folders(tmp_path: Path) -> None:
    one, two = submitted(tmp_path / "one"), submitted(tmp_path / "two", threads=8)
    status, output = bench("report", one, two, "--format", "markdown")
    assert (status, "several folders make one report: say where with --output" in output) == (2, True)
    status, output = bench(
        "report", one, two, "-o", tmp_path / "made", "--format", "markdown", "--format", "csv"
    )
    assert status == 0, output
    text = (tmp_path / "made" / "leaderboard.md").read_text()
    assert text.count("\n## ") + text.startswith("## ") == 2
    _, *lines = (tmp_path / "made" / "leaderboard.csv").read_text().splitlines()
    assert [len(lines), sum(",baseline," in line for line in lines)] == [4, 2]
    status, output = bench("report", one, one, "-o", tmp_path / "made")
    assert (status, "are one run: name one of them as PATH" in output) == (2, True)
    with pytest.raises(ReportError, match="does not exist"):
        load(one, tmp_path / "nowhere")


def test_comparing_across_submissions_takes_a_flag(tmp_path: Path) -> None:
    one, two = submitted(tmp_path / "one"), submitted(tmp_path / "two")
    first, second = (str(next((root / "test-cpu" / "nano-gsm").iterdir())) for root in (one, two))
    status, output = bench("compare", first, second)
    assert status == 2
    assert "was run under another configuration" in output
    assert "submission (" in output
    assert bench("compare", first, second, "--across")[0] == 0
