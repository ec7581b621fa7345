"""The README's leaderboard: written from stored runs, and checked against them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from harness.records.files import around
from reports.front import Front, front_table
from reports.leaderboard import leaderboard
from reports.load import ReportError, StoredRun
from reports.plots import PICTURE, stem
from reports.table import Table, build

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"


def updated(
    readme: Path,
    runs: Sequence[StoredRun],
    plots: Path | None = None,
    front: Front | None = None,
    tables: Sequence[Table] | None = None,
) -> str:
    """The README's text with the block between the markers replaced. ReportError without exactly one pair of
    markers.

    ``plots``: folder of the pictures that ``bench report`` drew; those that are there are shown.
    ``front``: the rows to show; None: the whole board. ``tables`` are ``build(runs)`` if they have been
    built already.
    """
    above, below = around(readme, "--readme", BEGIN, END, ReportError)
    tables = build(runs) if tables is None else tables
    pictures = _pictures(readme, tables, plots)
    board = (
        leaderboard(runs, "###", tables=tables, pictures=pictures)
        if front is None
        else front_table(front, tables, pictures)
    )
    return f"{above}\n\n{board}\n{below}"


def check(
    readme: Path,
    runs: Sequence[StoredRun],
    plots: Path | None = None,
    front: Front | None = None,
    tables: Sequence[Table] | None = None,
) -> str:
    """Unified diff from the README to what the runs say; empty: they agree."""
    stored = readme.read_text() if readme.exists() else ""
    return diff(stored, updated(readme, runs, plots, front, tables), readme.name)


def _pictures(readme: Path, tables: Sequence[Table], plots: Path | None) -> dict[str, str]:
    """Path of the picture of each table, seen from the README, by comparability key."""
    if plots is None:
        return {}
    files = {table.key: plots / f"{stem(table, PICTURE)}.png" for table in tables}
    return {
        key: Path(os.path.relpath(file, readme.parent)).as_posix()
        for key, file in files.items()
        if file.exists()
    }


def diff(stored: str, fresh: str, name: str) -> str:
    """Unified diff between a stored text and the one its runs give; empty: equal."""
    lines = difflib.unified_diff(
        stored.splitlines(), fresh.splitlines(), f"{name} (stored)", f"{name} (from the runs)", lineterm=""
    )
    return "\n".join(lines)
