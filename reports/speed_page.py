"""Plots and the page of speed tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure

from harness.errors import UserError
from harness.records.files import write_atomic
from reports.speed import NOTES, SpeedTable, cells, headings, markdown
from reports.style import COLOURS, GREY, MARKERS, encode, figure, fit, log_ticks, title


class SpeedReportError(UserError, OSError):
    """A report that cannot be written."""


def draw(table: SpeedTable) -> Figure:
    """Milliseconds per pass over the query's length with the roof below them; of a replay, seconds per
    answer.
    """
    return _passes(table) if table.run.plan.kind == "forward" else _answers(table)


def _passes(table: SpeedTable) -> Figure:
    drawn, axes = figure(height=5.0)
    plan = table.run.plan
    kinds = [(rows, cached) for rows in plan.rows for cached in plan.cached]
    for place, (rows, cached) in enumerate(kinds):
        mine = [line for line in table.lines if (line.first.rows, line.first.cached) == (rows, cached)]
        if not mine:
            continue
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        query = [line.first.query or 0 for line in mine]
        label = f"{rows} row{'s' * (rows > 1)}, {cached} cached"
        axes.plot(query, [1000 * line.middle for line in mine], f"{marker}-", color=colour, label=label)
        low, high = ([1000 * getattr(line, end) for line in mine] for end in ("low", "high"))
        axes.vlines(query, low, high, color=colour, alpha=0.5, linewidth=3)
        axes.plot(query, [1000 * line.roof for line in mine], "--", color=colour, linewidth=1)
    log_ticks(axes)
    log_ticks(axes, "y")
    axes.set_xlabel("positions fed per row")
    axes.set_ylabel("milliseconds per forward pass  (down is better)")
    axes.legend(frameon=False, fontsize=8.5, title="dashed: the roof", title_fontsize=8.5)
    title(axes, table.heading)
    return drawn


def _answers(table: SpeedTable) -> Figure:
    lines = table.lines[::-1]
    drawn, axes = figure(height=1.4 + 0.42 * len(lines))
    names = [
        f"{fit(line.label, 170, 9.5, lines=2)}, {line.first.rows} row{'s' * (line.first.rows > 1)}"
        for line in lines
    ]
    axes.barh(names, [line.middle for line in lines], color="#a6cee3", height=0.62, label="measured")
    axes.barh(names, [line.roof for line in lines], color="#0072B2", height=0.3, label="roof")
    for place, line in enumerate(lines):
        text = f"  {line.middle:.3g} s: {line.share:.0%} of the roof"
        axes.text(line.middle, place, text, va="center", fontsize=8, color=GREY)
    axes.set_xlim(0, max(line.middle for line in lines) * 1.8)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds of forward passes per answer  (left is better)")
    drawn.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8.5)
    # Names take much of the width: the headline begins at the picture's edge, and bars stand below it.
    heading = fit(table.heading, 72 * drawn.get_figwidth() - 20, 11, weight="bold")
    drawn.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return drawn


def pictures(tables: Sequence[SpeedTable]) -> dict[str, bytes]:
    """The plot of each table as PNG, by the table's id; tables without a line have none."""
    return {table.run.id: encode(draw(table), "png") for table in tables if table.lines}


def page(tables: Sequence[SpeedTable], drawn: Mapping[str, bytes]) -> str:
    """One self-contained page: sortable tables with their plots, ``drawn`` by ``pictures``."""
    style, script = (
        (files("reports") / "templates" / name).read_text(encoding="utf-8")
        for name in ("page.css", "table.js")
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    sections = "".join(_section(table, drawn.get(table.run.id)) for table in tables)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>dllm-bench speed</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        "<header>\n<h1>Forward passes of a shape</h1>\n"
        "<p>Random weights against the roof of the hardware. Click a column to sort.</p>\n</header>\n<main>\n"
        f"{sections}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _section(table: SpeedTable, drawn: bytes | None) -> str:
    names = headings(table)
    numeric = [name not in ("method", "kernel") for name in names]
    heads = "".join(
        f"<th scope=col{' class=n' if right else ''}><button type=button>{escape(name)}</button></th>"
        for name, right in zip(names, numeric, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td class=n data-v="{"" if value is None else repr(float(value))}">{escape(text)}</td>'
            if right
            else f"<td>{escape(text)}</td>"
            for (text, value), right in zip(cells(table, line), numeric, strict=True)
        )
        + "</tr>"
        for line in table.lines
    )
    picture = ""
    if drawn is not None:
        source = base64.b64encode(drawn).decode()
        picture = (
            f'<figure><img src="data:image/png;base64,{source}" alt="{escape(table.heading)}"></figure>\n'
        )
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in table.facts)
    return (
        f"<section>\n<h2>{escape(table.heading)}</h2>\n<div class=scroll><table class=sortable>"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
        f"<p class=note>{escape(NOTES[table.run.plan.kind])}</p>\n{picture}<ul class=note>{facts}</ul>\n"
        "</section>\n"
    )


def write_report(tables: Sequence[SpeedTable], folder: Path) -> list[Path]:
    """Write ``speed.md``, ``index.html`` and the plots of all tables; SpeedReportError for a folder that
    cannot be used.
    """
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        written = [folder / "speed.md", folder / "index.html"]
        write_atomic(written[0], markdown(tables))
        drawn = pictures(tables)
        write_atomic(written[1], page(tables, drawn))
        for name, content in drawn.items():
            written.append(folder / "plots" / f"{name}.png")
            write_atomic(written[-1], content)
    except OSError as error:
        raise SpeedReportError(
            f"cannot write to {folder} ({error.strerror}): choose another folder with --output_path"
        ) from None
    return written
