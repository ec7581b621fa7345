"""The README's table: chosen rows of a board, its suites side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reports.cells import number, percent, speed
from reports.leaderboard import device
from reports.load import ReportError
from reports.table import Table, TableRow

NOTE = (
    "TPS: useful tokens per second. Speed-up: over vanilla with one token per forward pass, paired per "
    "problem, with its 95% interval. Bold pass@1: shown to lose less than 3 points against vanilla."
)


class Front(BaseModel):
    """Which rows and suites are shown, in this order; ``picture`` is the suite whose plot stands above."""

    model_config = ConfigDict(extra="forbid")

    suites: list[str] = Field(min_length=1, max_length=2)
    picture: str
    rows: list[str] = Field(min_length=1, max_length=8)


def read_front(path: Path) -> Front:
    """ReportError naming ``--rows`` for no file, or with the first fault of a damaged one."""
    try:
        return Front.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ReportError(f"cannot read --rows {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise ReportError(f"--rows {path} is damaged: {' '.join(str(error).split())}") from None


def front_table(front: Front, tables: Sequence[Table], pictures: Mapping[str, str] | None = None) -> str:
    """Picture, table of at most eight rows and six columns, and what its figures mean; ends with a newline.

    ReportError for a suite or row that the board lacks.
    """
    chosen = {name: _table(tables, name) for name in {*front.suites, front.picture}}
    path = (pictures or {}).get(chosen[front.picture].key)
    first = chosen[front.suites[0]]
    shown = [f"![{front.picture}: quality against speed]({path})\n"] if path else []
    suites = [f"{name}: {'TPS | ' if name == front.suites[0] else ''}speed-up" for name in front.suites]
    lines = [
        f"| method |{''.join(f' {suite} | pass@1 (%) |' for suite in suites)}",
        f"| --- |{' --: |' * (1 + 2 * len(suites))}",
    ]
    for label in front.rows:
        rows = [_row(chosen[suite], label) for suite in front.suites]
        cells = [
            number(rows[0].stored.summary.tps),
            *(cell for row in rows for cell in (speed(row), _solved(row))),
        ]
        lines.append(f"| {_name(label)} | {' | '.join(cells)} |")
    about = (
        f"{first.documents} problems each, {first.rows[0].stored.run.plan.model} on {device(first)}. {NOTE}\n"
    )
    return "\n".join([*shown, *lines, "", about])


def _table(tables: Sequence[Table], suite: str) -> Table:
    """The suite's table with its own prompts."""
    found = next((table for table in tables if table.heading == suite), None)
    if found is None:
        known = ", ".join(table.heading for table in tables) or "none"
        raise ReportError(f"--rows names the suite {suite}, which the board lacks; it has {known}")
    return found


def _row(table: Table, label: str) -> TableRow:
    found = [row for row in table.rows if row.label == label]
    if len(found) != 1:
        known = "; ".join(row.label for row in table.rows)
        raise ReportError(
            f"--rows names {label!r}, which {len(found) or 'no'} rows of {table.suite} are called: {known}"
        )
    return found[0]


def _name(label: str) -> str:
    method, _, settings = label.partition(" ")
    return f"{method} `{settings}`" if settings else method


def _solved(row: TableRow) -> str:
    """pass@1 in percent, bold where non-inferiority was shown."""
    solved = percent(row.stored.summary.pass_at_1)
    decided = None if row.verdict is None else row.verdict.non_inferiority
    return f"**{solved}**" if decided is not None and decided.decision == "yes" else solved
