"""Published numbers, shown beside measured rows and never among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.records.outside import read_yaml, reason
from harness.records.printable import in_markdown
from reports.cells import UNKNOWN
from reports.load import ReportError

INTRODUCTION = (
    "Printed by the authors named, **not measured here**: other hardware, prompts, counting rules and stop "
    "rules. "
    "Do not compare these figures with the tables above, nor rows of different sources with each other."
)


Figure = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Record):
    title: str
    url: str


class PublishedRow(_Record):
    """One printed figure; a field left out is the table's."""

    method: str
    suite: str | None = None
    device: str | None = None
    engine: str | None = None
    tps: Figure = Field(description="tokens per second")
    score: Figure | None = Field(default=None, description="accuracy in percent")
    tpf: Figure | None = Field(default=None, description="tokens per forward")


class PublishedTable(_Record):
    """Figures of one source for one model, with what is known to be wrong with them."""

    title: str
    source: str
    suite: str | None = None
    device: str | None = None
    engine: str | None = None
    batch_size: int | None = None
    caveats: list[str]
    rows: list[PublishedRow]


class Published(_Record):
    """The whole file; every table names a known source and every row has a suite and a device."""

    sources: dict[str, Source]
    tables: list[PublishedTable]


HEADINGS = ("suite", "method", "device", "engine", "TPS", "score (%)", "TPF")


def read_published(path: Path) -> Published | None:
    """The file, or None if there is none. ReportError with the first fault if it is damaged."""
    if not path.exists():
        return None
    try:
        published = Published.model_validate(read_yaml(path, ReportError, "mend it, or change --published"))
    except ValidationError as error:
        raise ReportError(f"{path} is damaged: {reason(error)}") from None
    for table in published.tables:
        if table.source not in published.sources:
            raise ReportError(f"{path}: table {table.title} names the unknown source {table.source}")
    return published


def cells(table: PublishedTable) -> list[list[str]]:
    """[rows][columns] text under ``HEADINGS``."""
    return [
        [
            row.suite or table.suite or UNKNOWN,
            row.method,
            row.device or table.device or UNKNOWN,
            row.engine or table.engine or UNKNOWN,
            *(UNKNOWN if value is None else f"{value:g}" for value in (row.tps, row.score, row.tpf)),
        ]
        for row in table.rows
    ]


def markdown(published: Published, heading: str = "##") -> str:
    """A section of its own with one table per source and model."""
    parts = [f"{heading} Published elsewhere, not measured here\n\n{INTRODUCTION}\n"]
    for table in published.tables:
        source = published.sources[table.source]
        batch = f", batch {table.batch_size}" if table.batch_size else ""
        parts.append(f"{heading}# {in_markdown(table.title)}{batch}\n\nSource: {_linked(source)}.\n")
        shown = ([in_markdown(cell) for cell in row] for row in cells(table))
        parts.append(_grid([list(HEADINGS), ["---"] * 4 + ["--:"] * 3, *shown]))
        parts.append("\n".join(f"- {in_markdown(caveat)}" for caveat in table.caveats) + "\n")
    return "\n".join(parts)


def _linked(source: Source) -> str:
    title = in_markdown(source.title, link=True)
    if re.fullmatch(r"https?://[\w./~%?=&#:+-]+", source.url, re.ASCII):
        return f"[{title}]({source.url})"
    return f"{title}, {in_markdown(source.url)}"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
