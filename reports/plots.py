"""Plots of a table: quality against speed first, then what explains the speed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.decoding.settings import setting_text
from harness.records.schema import Sample
from harness.statistics.summary import tps_interval
from reports.cells import time_shares
from reports.style import GREY, Point, caption, figure, label_points, log_ticks, looks, save, title
from reports.table import BASELINE_METHOD, Table, TableRow, unusual

SEGMENTS = (
    ("forward: the model", "#0072B2"),
    ("select: the method's own code", "#E69F00"),
    ("harness", "#999999"),
)
PICTURE = "quality-speed"
LOG_SCALE_FROM = 4.0
"""A span of values from which the speed axis is logarithmic."""


def quality_speed(table: Table) -> Figure | None:
    """pass@1 against useful tokens per second with 95% intervals; None if nothing was graded."""
    return _scatter(table, "tps", "useful tokens per second", "quality against speed", with_intervals=True)


def quality_parallelism(table: Table) -> Figure | None:
    """pass@1 against useful tokens per forward: the same trade without the machine."""
    return _scatter(
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
    known = [
        (row, shares)
        for row in reversed(table.rows)
        if row.stored.summary.tps and (shares := time_shares(row.stored.summary))
    ]
    if not known:
        return None
    drawn, axes = figure(height=1.4 + 0.42 * len(known))
    cost = np.array([1000 / (row.stored.summary.tps or 1) for row, _ in known])
    names, left = [caption(row.label) for row, _ in known], np.zeros(len(known))
    for part, (label, colour) in enumerate(SEGMENTS):
        width = cost * np.array([shares[part] for _, shares in known])
        axes.barh(names, width, left=left, color=colour, label=label, height=0.62)
        left += width
    for place, (_, shares) in enumerate(known):
        text = f"  {cost[place]:.3g} ms: {' / '.join(f'{share:.0%}' for share in shares)}"
        axes.text(cost[place], place, text, va="center", fontsize=8, color=GREY)
    axes.set_xlim(0, cost.max() * 1.45)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("milliseconds per useful token")
    title(axes, f"{table.heading}: where the time goes")
    drawn.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8.5)
    return drawn


PLOTS: dict[str, Callable[[Table], Figure | None]] = {
    PICTURE: quality_speed,
    "quality-tokens-per-forward": quality_parallelism,
    "latency": latency,
    "forwards": forwards,
    "time": time_split,
}


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


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points no other beats in both x and y (larger is better), by increasing x."""
    front: list[Point] = []
    for x, y in sorted(points, reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]


def _scatter(table: Table, field: str, x_label: str, heading: str, with_intervals: bool) -> Figure | None:
    rows = [
        row
        for row in table.rows
        if getattr(row.stored.summary, field) and row.stored.summary.pass_at_1 is not None
    ]
    if not rows:
        return None
    drawn, axes = figure(height=5.0)
    style = looks([row.stored.run.plan.method for row in rows], BASELINE_METHOD)
    points = [(getattr(row.stored.summary, field), 100 * (row.stored.summary.pass_at_1 or 0)) for row in rows]
    colours = [style[row.stored.run.plan.method][0] for row in rows]
    lines = [_front_line(axes, points)]
    for method, (colour, marker) in style.items():
        mine = sorted(
            (
                (point, row)
                for point, row in zip(points, rows, strict=True)
                if row.stored.run.plan.method == method
            ),
            key=itemgetter(0),
        )
        joined = _one_dial([row for _, row in mine])
        axes.plot(
            [x for (x, _), _ in mine], [y for (_, y), _ in mine], marker, color=colour, markersize=7, zorder=4
        )
        if joined:
            lines.append([point for point, _ in mine])
            axes.plot(
                [x for x, _ in lines[-1]],
                [y for _, y in lines[-1]],
                color=colour,
                linewidth=1,
                alpha=0.8,
                zorder=3,
            )
    for point, row, colour in zip(points, rows, colours, strict=True):
        lines += _whiskers(axes, point, row, colour, with_intervals)
    _axis(axes, [x for x, _ in points])
    axes.margins(y=0.14)
    axes.set_xlabel(f"{x_label}  (right is better)")
    axes.set_ylabel("problems solved, pass@1 in %  (up is better)")
    title(axes, f"{table.heading}: {heading}")
    axes.text(
        1,
        1.01,
        f"{table.documents} problems, 95% intervals",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=GREY,
    )
    label_points(
        axes, points, [_short_name(row, rows) for row in rows], colours, [line for line in lines if line]
    )
    return drawn


def _one_dial(rows: Sequence[TableRow]) -> bool:
    """Whether the runs of one method differ in a single setting, so that a line through them means
    something.
    """
    names = {name for row in rows for name in row.settings}
    varying = [name for name in names if len({str(row.settings.get(name)) for row in rows}) > 1]
    return len(rows) > 1 and len(varying) == 1


def _front_line(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """Draw the staircase no run lies beyond, and return its corners."""
    front = pareto(points)
    corners = [corner for left, right in pairwise(front) for corner in (left, (left[0], right[1]), right)]
    if corners:
        x, y = zip(*corners, strict=True)
        axes.plot(
            x,
            y,
            color="#a0a0a0",
            linestyle=(0, (4, 3)),
            linewidth=1.1,
            zorder=1,
            label="best trade-offs in this table",
        )
        axes.legend(loc="lower left", frameon=False, fontsize=8.5, labelcolor=GREY)
    return corners


def _whiskers(axes: Axes, point: Point, row: TableRow, colour: str, with_speed: bool) -> list[list[Point]]:
    """Draw the 95% intervals of a point and return the segments."""
    figures = row.stored.summary
    segments = [
        [(point[0], 100 * (figures.pass_at_1_low or 0)), (point[0], 100 * (figures.pass_at_1_high or 0))]
    ]
    interval = tps_interval(row.stored.samples) if with_speed else None
    if interval:
        segments.append([(interval[0], point[1]), (interval[1], point[1])])
    for (x0, y0), (x1, y1) in segments:
        axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1.2, alpha=0.4, zorder=2)
    return segments


def _spread(table: Table, field: str, x_label: str, heading: str) -> Figure | None:
    rows = [(row, values) for row in reversed(table.rows) if (values := _values(row.stored.samples, field))]
    if not rows:
        return None
    drawn, axes = figure(height=1.4 + 0.46 * len(rows))
    style = looks([row.stored.run.plan.method for row, _ in rows], BASELINE_METHOD)
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
    axes.set_yticks(range(len(rows)), [caption(row.label) for row, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.35)
    axes.grid(axis="y", visible=False)
    _axis(axes, [value for _, values in rows for value in values])
    axes.set_xlabel(f"{x_label}\nbar: 10th to 90th percentile, tick: median, dot: one answer")
    title(axes, f"{table.heading}: {heading}")
    return drawn


def _values(samples: Sequence[Sample], field: str) -> list[float]:
    return [value for sample in samples if sample.status == "ok" and (value := getattr(sample, field))]


def _axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic with plain numbers where values span a lot, else linear from 0."""
    low, high = min(values), max(values)
    if high / low < LOG_SCALE_FROM:
        axes.set_xlim(0, high * 1.18)
        return
    log_ticks(axes)
    axes.set_xlim(low / 1.35, high * 1.6)


def _short_name(row: TableRow, rows: Sequence[TableRow]) -> str:
    """Method, and below it the settings that tell its runs apart and that most of them do not share; the
    table has the others.
    """
    plan = row.stored.run.plan
    mates = [other for other in rows if other.stored.run.plan.method == plan.method]
    settings = [
        setting_text(name, value)
        for name, value in row.settings.items()
        if unusual(value, [other.settings.get(name) for other in mates])
    ]
    name = caption(f"{plan.method} (baseline)" if row.is_baseline else plan.method)
    return f"{name}\n{caption(' '.join(settings))}" if settings else name
