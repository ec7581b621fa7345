"""One self-contained HTML page: sortable tables, plots, published figures, and a viewer that replays stored
samples.

Nothing is fetched: styles and scripts are inline, plots are data URIs, and each run's samples are gzipped
JSON that the browser unpacks when the viewer asks for them.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from reports import aup, sensitivity
from reports.cells import Column, columns
from reports.leaderboard import commands, device, facts, notes, settings_line
from reports.load import StoredRun, left_out
from reports.plots import PLOTS, draw
from reports.published import HEADINGS, INTRODUCTION, Published, cells
from reports.replay import replay
from reports.style import encode
from reports.table import Table, TableRow, build

TITLES = {
    "quality-speed": "Quality against speed",
    "quality-tokens-per-forward": "Quality against tokens per forward",
    "latency": "Latency",
    "forwards": "Forward passes",
    "time": "Where the time goes",
}


def page(
    runs: Sequence[StoredRun],
    published: Published | None = None,
    samples_per_run: int | None = None,
    tables: Sequence[Table] | None = None,
) -> str:
    """The whole page. ``samples_per_run`` limits how many samples of each run the viewer holds (None: all).

    ``tables`` are ``build(runs)`` if they have been built already.
    """
    tables = build(runs) if tables is None else tables
    shown = [(table, row) for table in tables for row in table.rows]
    parts = {
        "style": _template("page.css"),
        "script": _template("table.js") + _template("viewer.js"),
        "tables": "\n".join([*map(_section, tables), *map(_sensitivity, sensitivity.find(tables))])
        or "<p>No run may be shown in a table yet.</p>",
        "excluded": _excluded(left_out(runs)),
        "published": _published(published) if published else "",
        "runs": _json([_entry(place, table, row) for place, (table, row) in enumerate(shown)]),
        "samples": "\n".join(_packed(place, row, samples_per_run) for place, (_, row) in enumerate(shown)),
    }
    text = _template("page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts.get(found[1], found[0]), text)


def _entry(place: int, table: Table, row: TableRow) -> dict[str, Any]:
    return {
        "place": place,
        "table": table.key,
        "suite": f"{table.heading} ({table.key[:6]})",
        "label": row.label,
        "method": row.stored.run.plan.method,
        "run": row.stored.run.run_id,
        "baseline": row.is_baseline,
    }


def _packed(place: int, row: TableRow, limit: int | None) -> str:
    samples = [replay(sample) for sample in row.stored.samples if sample.step_map][:limit]
    data = gzip.compress(_json(samples).encode(), 9, mtime=0)
    return f'<script type="application/gzip" id="samples-{place}">{base64.b64encode(data).decode()}</script>'


def _section(table: Table) -> str:
    problems = (
        f"{table.documents} problems, {escape(table.rows[0].stored.run.plan.model)} on "
        f"{escape(device(table))}"
    )
    title = f"{escape(table.heading)} <small>{problems}</small>"
    figure = aup.sentence(table)
    lines = [*notes(table), *([figure] if figure else [])]
    said = "".join(f"<p class=note>{escape(line.replace('**', ''))}</p>" for line in lines)
    parts = "\n".join((grid(table), said, _plots(table), _configuration(table)))
    return f"<section>\n<h2>{title}</h2>\n{parts}\n</section>"


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
    line = []
    for column in shown:
        value = column.value(row) if column.value else None
        sort = (
            "" if column.value is None else f' class=n data-v="{"" if value is None else repr(float(value))}"'
        )
        text = escape(column.text(row))
        full = f' title="{escape(row.verdict.text)}"' if row.verdict and column.heading == "verdict" else ""
        line.append(f"<td{sort}{full}>{f'<code>{text}</code>' if column.heading == 'run' else text}</td>")
    return f"<tr{' class=baseline' if row.is_baseline else ''}>{''.join(line)}</tr>"


def _plots(table: Table) -> str:
    drawn = draw(table)
    found = []
    for name in PLOTS:
        if name in drawn:
            source = base64.b64encode(encode(drawn[name], "png")).decode()
            found.append(
                f'<figure><img alt="{TITLES[name]}, {escape(table.suite)}" '
                f'src="data:image/png;base64,{source}"></figure>'
            )
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


def _json(value: Any) -> str:
    """Compact JSON that cannot end a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).replace(
        "<", "\\u003c"
    )
