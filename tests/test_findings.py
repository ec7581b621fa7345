"""Every figure of the findings is the one that its run has on a generated board, which have drift tests of
their own.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
# A plan that two boards ran has one id: the later board's figures are meant.
BOARDS = ("batches", "leaderboard", "decoders", "students", "lockstep")
CITED = re.compile(r"`([\w.-]+-[0-9a-f]{10})`:\s+([^;)]+)")
COLUMNS = {"pass@1": "pass@1 (%)"}


def _rows() -> dict[str, dict[str, str]]:
    """Cells by heading of every row of the boards, by run id."""
    found: dict[str, dict[str, str]] = {}
    for board in BOARDS:
        names: list[str] = []
        for line in (DOCS / f"{board}.md").read_text().splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("| method |"):
                names = cells
            elif line.startswith("|") and len(cells) == len(names) and names[-1] == "run":
                found[cells[-1].strip("`")] = dict(zip(names, cells, strict=True))
    return found


def _cited() -> list[tuple[str, str, str]]:
    """(run id, column, figure) of every figure in the findings."""
    found: list[tuple[str, str, str]] = []
    for run, told in CITED.findall((DOCS / "findings.md").read_text()):
        for pair in " ".join(told.split()).split(", "):
            column, figure = pair.split()
            found.append((run, column, figure))
    return found


@pytest.mark.parametrize(("run", "column", "figure"), _cited())
def test_a_figure_is_that_of_its_run(run: str, column: str, figure: str) -> None:
    row = ROWS[run]
    assert row[COLUMNS.get(column, column)].split()[0] == figure


def test_every_finding_names_its_runs() -> None:
    text = (DOCS / "findings.md").read_text()
    findings = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(findings) == 10
    assert all(CITED.search(finding) for finding in findings)
    ids = set(re.findall(r"`([\w.-]+-[0-9a-f]{10})`", text))
    assert ids == {run for run, _, _ in _cited()}, "an id without figures"


ROWS = _rows()
