"""Tables of the terminal at 80 columns and at 160."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from reports.cli.report import verdicts
from reports.console import comparison, render
from reports.load import load
from tests.commands import bench
from tests.synthetic_runs import write_table


def lines(part: RenderableType, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(part)
    return out.getvalue().splitlines()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_table(folder, 12)
    return folder


def test_an_interval_is_never_broken(root: Path) -> None:
    wide, narrow = (lines(render(load(root)), width) for width in (160, 80))
    assert max(map(len, narrow)) <= 80
    for shown in (wide, narrow):
        table = [line for line in shown if " [" in line and "accuracy" not in line]
        assert table
        assert all(line.count("[") == line.count("]") for line in table)
    heads = [line for line in narrow if "method" in line and "TPS" in line]
    assert len(heads) == 1


def test_a_comparison_shows_a_few_runs_at_a_time(root: Path) -> None:
    baseline, *others = load(root)
    pairs = 2 * list(zip(others, verdicts(baseline, others, across=True), strict=True))
    assert len(pairs) == 6
    narrow = lines(comparison(baseline, pairs), 80)
    assert max(map(len, narrow)) <= 80
    for other in others:
        assert any(other.run.run_id.rpartition("-")[2] in line for line in narrow)
    assert sum("margin 3 pp" in line for line in narrow) == -(-len(pairs) // 3)


def test_names_are_never_cut_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for what in ("all", "d2f"):
        done = bench("list", what)
        assert done.returncode == 0, done.stderr
        assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
        assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80
