"""Whether written reports still say what the stored runs say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from reports.leaderboard import leaderboard
from reports.load import StoredRun
from reports.page import grid
from reports.plots import stem
from reports.published import Published
from reports.readme import diff
from reports.style import MARK
from reports.table import DIGITS, Table, build


def csv(tables: Sequence[Table]) -> str:
    """All rows of all tables, raw numbers."""
    frame = pd.concat(
        [table.frame.assign(suite=table.suite, comparability_key=table.key) for table in tables]
    )
    return frame.to_csv(index=False, float_format=DIGITS)


def drift(
    folder: Path,
    runs: Sequence[StoredRun],
    published: Published | None,
    tables: Sequence[Table] | None = None,
) -> str:
    """What disagrees in a folder that ``bench report`` wrote, empty: nothing.

    The Markdown leaderboard must be there; CSV, page and plots are checked if they are. Pictures and page are
    not compared byte by byte, since another version of a drawing library changes them, but by the figures
    they were made from.
    """
    tables = build(runs) if tables is None else tables
    board, table_file, page = folder / "leaderboard.md", folder / "leaderboard.csv", folder / "index.html"
    found = [
        diff(
            board.read_text() if board.exists() else "",
            leaderboard(runs, published=published, tables=tables),
            str(board),
        )
    ]
    if table_file.exists():
        found.append(diff(table_file.read_text(), csv(tables), str(table_file)))
    if page.exists():
        text = page.read_text()
        found += [
            f"{page} shows another table of {table.suite} ({table.key})"
            for table in tables
            if grid(table) not in text
        ]
    known = {stem(table, ""): table.fingerprint for table in tables}
    for file in sorted(folder.glob("plots/*.png")):
        fingerprint = next((mark for start, mark in known.items() if file.name.startswith(start)), None)
        with Image.open(file) as image:
            if image.info.get(MARK) != fingerprint:
                found.append(f"{file} was drawn from other runs")
    return "\n".join(line for line in found if line)
