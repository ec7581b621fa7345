"""Quality against speed or parallelism: the rows that matter by name, the others grey, the front drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.decoding.settings import setting_text
from harness.statistics.summary import tps_interval
from reports.ideal import IDEAL, WORDS
from reports.labels import Point, label_points
from reports.style import FAINT, GREY, figure, fit, log_ticks, looks, title
from reports.table import BASELINE_METHOD, Table, TableRow, unusual

NAMED = 12
"""Rows of a table that a plot names at most."""
LOG_SCALE_FROM = 4.0
"""A span of values from which the speed axis is logarithmic."""


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points no other beats in both x and y (larger is better), by increasing x."""
    front: list[Point] = []
    for x, y in sorted(points, reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]


def named(rows: Sequence[TableRow], field: str = "tps") -> list[TableRow]:
    """At most NAMED rows, the most telling first: baseline, best trade-offs of pass@1 and a figure, the first
    row of each method, then by the table's order.
    """
    points = {id(row): point for row in rows if (point := figure_point(row, field)) is not None}
    front = set(pareto(list(points.values())))
    leaders = {row.stored.run.plan.method: row for row in reversed(rows)}
    order = [
        *(row for row in rows if row.is_baseline),
        *(row for row in rows if points.get(id(row)) in front),
        *sorted(leaders.values(), key=rows.index),
        *rows,
    ]
    return list({id(row): row for row in order}.values())[:NAMED]


def how_many(shown: int, rows: int) -> str:
    """``; 12 of 40 rows named``, empty where all are."""
    return "" if shown == rows else f"; {shown} of {rows} rows named"


def scatter(table: Table, field: str, x_label: str, heading: str, with_intervals: bool) -> Figure | None:
    """pass@1 in percent against a figure of the summary; None if no row has both.

    ``with_intervals``: the figure is tokens per second, whose 95% interval is drawn too.
    """
    rows = [row for row in table.rows if figure_point(row, field) is not None]
    if not rows:
        return None
    drawn, axes = figure(height=5.4)
    style = looks([row.stored.run.plan.method for row in table.rows], BASELINE_METHOD)
    points = {id(row): point for row in rows if (point := figure_point(row, field)) is not None}
    chosen = named(rows, field)
    ids = {id(row) for row in chosen}
    lines = [_front_line(axes, list(points.values()))]
    rest = [points[id(row)] for row in rows if id(row) not in ids]
    axes.plot([x for x, _ in rest], [y for _, y in rest], "o", color=FAINT, markersize=4.5, zorder=2)
    for row in chosen:
        colour, marker = style[row.stored.run.plan.method]
        axes.plot(*points[id(row)], marker, color=colour, markersize=7, zorder=4)
        lines += _whiskers(axes, points[id(row)], row, colour, with_intervals)
    if not rest:
        lines += _dials(axes, rows, points, style)
    if field == "tpf" and table.suite in IDEAL:
        lines.append(_ideal_line(axes, IDEAL[table.suite]))
    span(axes, [x for x, _ in points.values()])
    axes.margins(y=0.16)
    axes.set_xlabel(f"{x_label}  (right is better)")
    axes.set_ylabel("problems solved, pass@1 in %  (up is better)")
    below = f"{table.documents} problems, 95% intervals"
    title(axes, f"{table.heading}: {heading}", below + how_many(len(chosen), len(rows)))
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside lower right", frameon=False, fontsize=8.5, labelcolor=GREY)
    label_points(
        axes,
        [points[id(row)] for row in chosen],
        [_short_name(row, rows) for row in chosen],
        [style[row.stored.run.plan.method][0] for row in chosen],
        [line for line in lines if line],
        rest,
    )
    return drawn


def span(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic with plain numbers where values span a lot, else linear from 0."""
    low, high = min(values), max(values)
    if high / low < LOG_SCALE_FROM:
        axes.set_xlim(0, high * 1.18)
        return
    log_ticks(axes)
    axes.set_xlim(low / 1.35, high * 1.6)


def figure_point(row: TableRow, field: str) -> Point | None:
    """(figure, pass@1 in percent) of a row; None where either is unknown."""
    figures = row.stored.summary
    x, y = getattr(figures, field), figures.pass_at_1
    return (float(x), 100 * y) if x and y is not None else None


def _front_line(axes: Axes, points: Sequence[Point]) -> list[Point]:
    """Draw the staircase no run lies beyond, and return its corners."""
    front = pareto(points)
    corners = [corner for left, right in pairwise(front) for corner in (left, (left[0], right[1]), right)]
    if corners:
        axes.plot(
            [x for x, _ in corners],
            [y for _, y in corners],
            color="#a0a0a0",
            linestyle=(0, (4, 3)),
            linewidth=1.1,
            zorder=1,
            label="Pareto front: no row of this table is better in both",
        )
    return corners


def _ideal_line(axes: Axes, shares: Sequence[float]) -> list[Point]:
    """Draw what an ideal factorised decoder reaches, and return the points of the line."""
    line = [(float(words), 100 * share) for words, share in zip(WORDS, shares, strict=True)]
    axes.plot(
        [x for x, _ in line],
        [y for _, y in line],
        color="#0f766e",
        linestyle=":",
        linewidth=1.6,
        zorder=1,
        label="ideal decoder that draws the words of a pass independently",
    )
    return line


def _dials(
    axes: Axes,
    rows: Sequence[TableRow],
    points: dict[int, Point],
    style: dict[str, tuple[str, str]],
) -> list[list[Point]]:
    """A line through the rows of each method that differ in one setting alone."""
    lines = []
    for method, (colour, _) in style.items():
        mine = [row for row in rows if row.stored.run.plan.method == method]
        if _one_dial(mine):
            lines.append(sorted((points[id(row)] for row in mine), key=itemgetter(0)))
            x, y = zip(*lines[-1], strict=True)
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.8, zorder=3)
    return lines


def _one_dial(rows: Sequence[TableRow]) -> bool:
    names = {name for row in rows for name in row.settings}
    varying = [name for name in names if len({str(row.settings.get(name)) for row in rows}) > 1]
    return len(rows) > 1 and len(varying) == 1


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
    name = fit(f"{plan.method} (baseline)" if row.is_baseline else plan.method, 130)
    return f"{name}\n{fit(' '.join(settings), 130, lines=2)}" if settings else name
