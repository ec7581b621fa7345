"""Plots of a table: quality against speed first, then what explains the speed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure

from harness.records.schema import Sample
from reports.cells import time_shares
from reports.scatter import figure_point, how_many, named, scatter, span
from reports.style import GREY, figure, fit, looks, save, title
from reports.table import BASELINE_METHOD, Table, TableRow

SEGMENTS = (
    ("forward: the model", "#0072B2"),
    ("select: the method's own code", "#E69F00"),
    ("harness", "#999999"),
)
PICTURE = "quality-speed"
Value = TypeVar("Value")


def quality_speed(table: Table) -> Figure | None:
    """pass@1 against useful tokens per second with 95% intervals; None if nothing was graded."""
    return scatter(table, "tps", "useful tokens per second", "quality against speed", with_intervals=True)


def quality_parallelism(table: Table) -> Figure | None:
    """pass@1 against useful tokens per forward: the same trade without the machine."""
    return scatter(
        table,
        "tpf",
        "useful tokens per forward pass",
        "quality against tokens per forward",
        with_intervals=False,
    )


def latency(table: Table) -> Figure | None:
    """Distribution of the time until an answer is finished, one line per run."""
    return _spread(table, "latency_s", "seconds until the answer is finished", "latency per answer")


def forwards(table: Table) -> Figure | None:
    """Distribution of forward passes per answer, one line per run."""
    return _spread(table, "nfe", "forward passes per answer", "forward passes per answer")


def time_split(table: Table) -> Figure | None:
    """Milliseconds per useful token: inside the model, in the method's own code, in the harness."""
    split = _split(table)
    if not split:
        return None
    known = _named(split)
    drawn, axes = figure(height=1.4 + 0.42 * len(known))
    cost = np.array([1000 / (row.stored.summary.tps or 1) for row, _ in known])
    names, left = [fit(row.label, 150, 9.5, 2) for row, _ in known], np.zeros(len(known))
    for part, (label, colour) in enumerate(SEGMENTS):
        width = cost * np.array([shares[part] for _, shares in known])
        axes.barh(range(len(known)), width, left=left, color=colour, label=label, height=0.62)
        left += width
    for place, (_, shares) in enumerate(known):
        text = f"  {cost[place]:.3g} ms: {' / '.join(f'{share:.0%}' for share in shares)}"
        axes.text(cost[place], place, text, va="center", fontsize=8, color=GREY)
    axes.set_yticks(range(len(known)), names)
    axes.set_xlim(0, cost.max() * 1.45)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("milliseconds per useful token")
    title(axes, f"{table.heading}: where the time goes", _below(table, len(known), len(split)))
    drawn.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8.5)
    return drawn


PLOTS: dict[str, Callable[[Table], Figure | None]] = {
    PICTURE: quality_speed,
    "quality-tokens-per-forward": quality_parallelism,
    "latency": latency,
    "forwards": forwards,
    "time": time_split,
}


def drawable(table: Table) -> list[str]:
    """Names of the plots that the figures of a table allow, nothing drawn."""
    fields = {PICTURE: "tps", "quality-tokens-per-forward": "tpf", "latency": "latency_s", "forwards": "nfe"}
    known = {
        name: any(
            figure_point(row, field) if name.startswith("quality") else _values(row.stored.samples, field)
            for row in table.rows
        )
        for name, field in fields.items()
    }
    return [name for name in PLOTS if known.get(name, bool(_split(table)))]


def draw(table: Table) -> dict[str, Figure]:
    """All plots of a table that its figures allow, by name, the most important first."""
    drawn = {name: plot(table) for name, plot in PLOTS.items()}
    return {name: one for name, one in drawn.items() if one is not None}


def write(table: Table, folder: Path) -> list[Path]:
    """Save all plots of a table as ``<suite>-<key>-<name>.png`` and ``.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        file
        for name, one in draw(table).items()
        for file in save(one, folder / stem(table, name), table.fingerprint)
    ]


def stem(table: Table, name: str) -> str:
    """File name of a plot without its ending."""
    return f"{_in_a_name(table.suite)}-{_in_a_name(table.key[:6])}-{name}"


def _in_a_name(text: str) -> str:
    """What a file's name may hold of a text from a run file: no way out of the folder."""
    return re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)[:100]


def _spread(table: Table, field: str, x_label: str, heading: str) -> Figure | None:
    known = [(row, values) for row in table.rows if (values := _values(row.stored.samples, field))]
    if not known:
        return None
    rows = _named(known)
    drawn, axes = figure(height=1.4 + 0.46 * len(rows))
    style = looks([row.stored.run.plan.method for row in table.rows], BASELINE_METHOD)
    jitter = np.random.default_rng(0)
    for place, (row, values) in enumerate(rows):
        colour = style[row.stored.run.plan.method][0]
        heights = place + jitter.uniform(-0.24, 0.24, len(values))
        axes.scatter(values, heights, s=6, color=colour, alpha=min(0.5, 40 / len(values) + 0.1), linewidths=0)
        p10, p50, p90 = np.percentile(values, [10, 50, 90])
        axes.plot([p10, p90], [place] * 2, color=colour, linewidth=2.2, zorder=3)
        axes.plot([p50], [place], marker="|", markersize=15, markeredgewidth=2.4, color=colour, zorder=4)
        axes.annotate(
            f"{p50:.3g}",
            (p50, place),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
    axes.set_yticks(range(len(rows)), [fit(row.label, 150, 9.5, 2) for row, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.35)
    axes.grid(axis="y", visible=False)
    span(axes, [value for _, values in rows for value in values])
    axes.set_xlabel(f"{x_label}\nbar: 10th to 90th percentile, tick: median, dot: one answer")
    title(axes, f"{table.heading}: {heading}", _below(table, len(rows), len(known)))
    return drawn


def _split(table: Table) -> list[tuple[TableRow, tuple[float, float, float]]]:
    """Rows whose time is known by parts."""
    return [
        (row, shares)
        for row in table.rows
        if row.stored.summary.tps and (shares := time_shares(row.stored.summary))
    ]


def _named(known: Sequence[tuple[TableRow, Value]]) -> list[tuple[TableRow, Value]]:
    """The rows that plots name, from the bottom up."""
    chosen = {id(row) for row in named([row for row, _ in known])}
    return [(row, value) for row, value in reversed(known) if id(row) in chosen]


def _below(table: Table, shown: int, rows: int) -> str:
    return f"{table.documents} problems{how_many(shown, rows).replace('named', 'shown')}"


def _values(samples: Sequence[Sample], field: str) -> list[float]:
    return [value for sample in samples if sample.status == "ok" and (value := getattr(sample, field))]
