"""The page of stored runs: sortable, filterable tables, plots, published figures, and for each row its
samples with a viewer that replays how they were written.

Nothing is fetched from elsewhere: styles and the script are inline, and the script runs by its hash alone.
Samples and plots are files beside the page (``reports.site``) or, in a single file, inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from harness.records.files import digest
from reports import aup, sensitivity
from reports.boards import Board
from reports.cells import Column, columns
from reports.leaderboard import commands, device, facts, notes, settings_line
from reports.load import StoredRun, left_out
from reports.plots import stem
from reports.published import HEADINGS, INTRODUCTION, Published, cells
from reports.table import Table, TableRow

TITLES = {
    "quality-speed": "Quality against speed",
    "quality-tokens-per-forward": "Quality against tokens per forward",
    "latency": "Latency",
    "forwards": "Forward passes",
    "time": "Where the time goes",
}
SCRIPTS = ("store.js", "route.js", "board.js", "viewer.js", "samples.js", "main.js")
ON_A_PHONE = ("method", "TPS", "speed-up", "pass@1 (%)", "verdict")
"""Columns that a narrow screen shows in the table; a row's own view has all."""


def page(
    boards: Sequence[Board],
    plots: Callable[[Board, Table], Sequence[tuple[str, str]]],
    published: Published | None = None,
    questions: bool = False,
    inline: Mapping[str, str] | None = None,
) -> str:
    """The whole page. ``plots`` gives (name, address) of the pictures of a table.

    ``questions``: whether prompts can be asked for. ``inline``: contents of files that the page holds itself,
    by name without ending.
    """
    tables = [(board, table) for board in boards for table in board.tables]
    every = [stored for board in boards for stored in board.runs]
    sections = [
        _section(place, table, plots(board, table), board.name if len(boards) > 1 else "")
        for place, (board, table) in enumerate(tables)
    ]
    varied = [found for board in boards for found in sensitivity.find(board.tables)]
    script = "".join(_template(name) for name in SCRIPTS)
    parts = {
        "hash": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        "style": _template("page.css"),
        "tables": "\n".join([*sections, *map(_sensitivity, varied)])
        or "<p>No run may be shown in a table yet.</p>",
        "excluded": _excluded(left_out(every)),
        "published": _published(published) if published else "",
        "data": compact(
            {
                "tables": [_table_entry(board, table, questions) for board, table in tables],
                "runs": [
                    _entry(place, board, table, row)
                    for place, (board, table) in enumerate(tables)
                    for row in table.rows
                ],
            }
        ),
        "inline": "\n".join(
            f'<script type="application/gzip" id="file-{escape(name)}">{content}</script>'
            for name, content in (inline or {}).items()
        ),
    }
    before, after = _template("page.html").split("{{script}}")
    # The script is untouched, since its hash is told; values may hold anything, so none is looked through.
    pieces = before.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join([*filled, script, after])


def samples_name(board: Board, table: Table, run_id: str) -> str:
    """File of a run's samples, without its ending; an id may come from anybody's run file, and two machines
    may have given the same one.
    """
    apart = [table.key] if table.apart else []
    return f"samples/{digest([board.name, run_id, *apart])}"


def questions_name(board: Board, table: Table) -> str:
    """File of a table's prompts, without its ending."""
    return f"questions/{digest([board.name, table.key])}"


def _table_entry(board: Board, table: Table, questions: bool) -> dict[str, Any]:
    plan = table.rows[0].stored.run.plan
    return {
        "board": board.name,
        "id": stem(table, "").rstrip("-"),
        "heading": table.heading,
        "suite": plan.suite,
        "model": plan.model,
        "batch": str(plan.batch_size),
        "questions": questions_name(board, table) if questions else None,
    }


def _entry(place: int, board: Board, table: Table, row: TableRow) -> dict[str, Any]:
    run = row.stored.run
    return {
        "table": place,
        "label": row.label,
        "method": run.plan.method,
        "run": run.run_id,
        "baseline": row.is_baseline,
        "verdict": row.verdict.text if row.verdict else None,
        "tone": tone(row),
        "settings": settings_line(row).replace("`", ""),
        "command": run.command,
        "samples": samples_name(board, table, run.run_id),
    }


def tone(row: TableRow) -> str:
    """Colour of a verdict: good, open, bad or void; empty for the baseline."""
    verdict = row.verdict
    if verdict is None:
        return ""
    decided = verdict.non_inferiority
    if verdict.flag or verdict.near_zero or verdict.speed == "unknown":
        return "void"
    if verdict.speed == "slower" or (decided is not None and decided.decision == "no"):
        return "bad"
    return "good" if verdict.speed == "faster" and decided and decided.decision == "yes" else "open"


def _section(place: int, table: Table, plots: Sequence[tuple[str, str]], board: str) -> str:
    problems = (
        f"{table.documents} problems, {escape(table.rows[0].stored.run.plan.model)} on "
        f"{escape(device(table))}"
    )
    where = f"board {escape(board)}, " if board else ""
    title = f"{escape(table.heading)} <small>{where}{problems}</small>"
    figure = aup.sentence(table)
    lines = [*notes(table), *([figure] if figure else [])]
    said = "".join(f"<p class=note>{escape(line.replace('**', ''))}</p>" for line in lines)
    parts = "\n".join((grid(table), said, _plots(table, plots), _configuration(table)))
    return f"<section data-table={place}>\n<h2>{title}</h2>\n{parts}\n</section>"


def grid(table: Table) -> str:
    """The sortable table, HTML."""
    shown = columns(table.rows)
    heads = "".join(
        f'<th scope=col title="{escape(column.meaning)}"{"" if column.value is None else " class=n"}>'
        f"<button type=button>{escape(column.heading)}</button></th>"
        for column in shown
    )
    body = "\n".join(_line(row, shown) for row in table.rows)
    return (
        f'<div class=scroll><table class=sortable id="table-{escape(table.key)}">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _line(row: TableRow, shown: Sequence[Column]) -> str:
    return f"<tr{' class=baseline' if row.is_baseline else ''}>{''.join(_td(row, one) for one in shown)}</tr>"


def _td(row: TableRow, column: Column) -> str:
    text = escape(column.text(row))
    if column.heading == "method":
        return f"<td>{text}</td>"
    kinds = ["n"] if column.value else []
    kinds += [] if column.heading in ON_A_PHONE else ["more"]
    more = f' data-h="{escape(column.heading)}"'
    if column.value:
        value = column.value(row)
        more += f' data-v="{"" if value is None else repr(float(value))}"'
    if column.heading == "verdict":
        kinds += ["verdict-cell", tone(row)]
        more = f' title="{escape(row.verdict.text)}"' if row.verdict else ""
    shown = f"<code>{text}</code>" if column.heading == "run" else text
    return f'<td class="{" ".join(kinds).strip()}"{more}>{shown}</td>'


def _plots(table: Table, plots: Sequence[tuple[str, str]]) -> str:
    found = [
        f'<figure><img alt="{TITLES[name]}, {escape(table.suite)}" loading=lazy '
        f'src="{escape(source)}"></figure>'
        for name, source in plots
    ]
    return f"{found[0]}<details><summary>More plots</summary>{''.join(found[1:])}</details>" if found else ""


def _configuration(table: Table) -> str:
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(table).items()
    )
    run_by = "".join(
        f"<tr><th>command</th><td><code>{escape(command)}</code></td></tr>" for command in commands(table)
    )
    rows = "".join(f"<li>{escape(settings_line(row))}</li>" for row in table.rows)
    return (
        f"<details><summary>Configuration</summary><table class=facts>{lines}{run_by}</table>"
        f"<p>Settings of each row:</p><ul>{rows}</ul></details>"
    )


def _sensitivity(one: sensitivity.Sensitivity) -> str:
    head, *lines = one.grid()
    heads = "".join(
        f"<th{' class=n' if place else ''}>{escape(text)}</th>" for place, text in enumerate(head)
    )
    kinds = ["<td>", *["<td class=n>"] * (len(head) - 1)]
    cells = [[f"{kind}{escape(text)}</td>" for kind, text in zip(kinds, line, strict=True)] for line in lines]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in cells)
    return (
        f"<section><h2>{escape(sensitivity.title(one))}</h2><div "
        f"class=scroll><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div><p class=note>{escape(sensitivity.MEANING)}</p></section>"
    )


def _excluded(runs: Iterable[StoredRun]) -> str:
    lines = "".join(
        f"<li><code>{escape(stored.run.run_id)}</code> ({escape(stored.run.plan.method)} on "
        f"{escape(stored.run.plan.suite)}): "
        f"{escape(stored.reason_left_out or '')}</li>"
        for stored in runs
    )
    return f"<section><h2>Not in any table</h2><ul>{lines}</ul></section>" if lines else ""


def _published(published: Published) -> str:
    parts = [
        "<section class=published><h2>Published elsewhere, not measured "
        f"here</h2><p>{escape(INTRODUCTION.replace('**', ''))}</p>"
    ]
    for table in published.tables:
        source = published.sources[table.source]
        batch = f", batch {table.batch_size}" if table.batch_size else ""
        heads = _cells(HEADINGS, "th")
        rows = "".join(f"<tr>{_cells(line, 'td')}</tr>" for line in cells(table))
        caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in table.caveats)
        parts.append(
            f"<details><summary>{escape(table.title + batch)}</summary>"
            f"<p>Source: {escape(source.title)}, {escape(source.url)}</p>"
            f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
            f"<ul>{caveats}</ul></details>"
        )
    return "".join(parts) + "</section>"


def _cells(texts: Sequence[str], tag: str) -> str:
    """Cells of a published row; the last three columns are numbers."""
    numbers = len(HEADINGS) - 3
    return "".join(
        f"<{tag}{' class=n' if place >= numbers else ''}>{escape(text)}</{tag}>"
        for place, text in enumerate(texts)
    )


def _template(name: str) -> str:
    return (files("reports") / "templates" / name).read_text(encoding="utf-8")


def compact(value: Any) -> str:
    """Compact JSON that cannot end a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).replace(
        "<", "\\u003c"
    )
