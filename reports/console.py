"""Tables on the terminal: what ``bench run`` prints at its end and what ``bench compare`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from harness.records.printable import in_console, printable
from harness.statistics.paired import changes
from harness.statistics.speed import speedup
from harness.statistics.verdict import Verdict
from reports.cells import COLUMNS, UNKNOWN, accuracy, number, percent
from reports.leaderboard import SHARES, device, notes
from reports.load import StoredRun, left_out, read_stored
from reports.table import Table, build

_SHOWN = ("method", "TPS", "speed-up", "pass@1 (%)", "TPF", "NFE", "latency p50 / p90")
_NAMES, _COLUMN = 20, 20
"""Columns of a narrow console that the names of facts take, and that each run does."""
_STYLES = {"faster": "green", "slower": "red", "void": "yellow"}


def render(runs: Iterable[StoredRun | Path]) -> RenderableType:
    """Tables of the given runs (stored runs or run folders), one per comparability key, each with its
    verdicts below.
    """
    stored = [run if isinstance(run, StoredRun) else read_stored(run) for run in runs]
    parts: list[RenderableType] = []
    for table in build(stored):
        parts += [grid(table), *verdict_lines(table), ""]
    parts += [
        Text(printable(f"{one.run.run_id} is in no table: {one.reason_left_out}"), style="yellow")
        for one in left_out(stored)
    ]
    return Group(*parts)


class Fitting:
    """``wide`` where it fits the console, else what ``narrow`` makes of the console's width."""

    def __init__(self, wide: RenderableType, narrow: Callable[[int], RenderableType]) -> None:
        self.wide, self.narrow = wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        fits = Measurement.get(console, options.update(width=10 * room), self.wide).maximum <= room
        yield self.wide if fits else self.narrow(room)


def grid(table: Table) -> RenderableType:
    """The columns that fit a terminal; the baseline row is bold."""
    return Fitting(_grid(table), lambda _: _grid(table, stacked=True))


def _grid(table: Table, stacked: bool = False) -> Grid:
    columns = [column for column in COLUMNS if column.heading in _SHOWN]
    model = table.rows[0].stored.run.plan.model
    title = f"{table.heading}: {table.documents} problems, {model} on {device(table)}"
    shown = Grid(title=in_console(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify = "left" if column.value is None else "right"
        heading = column.heading.replace("latency ", "latency\n" if stacked else "latency ")
        shown.add_column(heading, justify=justify, overflow="fold")
    for row in table.rows:
        style = "bold" if row.is_baseline else _STYLES.get(row.verdict.speed, "") if row.verdict else ""
        texts = [_stacked(column.text(row)) if stacked else column.text(row) for column in columns]
        shown.add_row(*(in_console(text, keep="\n") for text in texts), style=style)
    return shown


def _stacked(text: str) -> str:
    """A figure above its interval, the first of two above the second."""
    return text.replace(" [", "\n[").replace(" (", "\n(").replace(" / ", " /\n")


def verdict_lines(table: Table) -> list[RenderableType]:
    """One line per method, then the notes."""
    lines: list[RenderableType] = [
        Text(printable(f"  {row.label}: {row.verdict.text}")) for row in table.rows if row.verdict
    ]
    return lines + [
        Text(printable(f"  {note.removesuffix(SHARES).replace('**', '')}"), style="dim")
        for note in notes(table)
    ]


def comparison(baseline: StoredRun, others: Sequence[tuple[StoredRun, Verdict]]) -> RenderableType:
    """Everything known about each run against the baseline, one column per run; on a narrow console, a few
    runs at a time.
    """
    tests = [decided.non_inferiority for _, decided in others if decided.non_inferiority]
    margin = f" (margin {100 * tests[0].margin:g} pp)" if tests else ""
    rows = [(stored.run.run_id, _facts(baseline, stored, decided, margin)) for stored, decided in others]

    def narrow(room: int) -> RenderableType:
        share = max(1, (room - _NAMES) // _COLUMN)
        return Group(
            *(_facing(rows[at : at + share], stacked=True) for at in range(0, len(rows), share)),
        )

    title = Text(printable(f"against {baseline.run.run_id}"), style="table.title")
    lines = (Text(printable(f"{stored.run.run_id}: {decided.text}")) for stored, decided in others)
    return Group(title, Fitting(_facing(rows), narrow), *lines)


def _facing(rows: Sequence[tuple[str, dict[str, str]]], stacked: bool = False) -> Grid:
    shown = Grid(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for name, _ in rows:
        head, _, tail = name.rpartition("-")
        shown.add_column(in_console(f"{head}\n{tail}" if stacked else name, keep="\n"), overflow="fold")
    for fact in rows[0][1]:
        texts = (facts[fact].replace(" [", "\n[" if stacked else " [") for _, facts in rows)
        shown.add_row(fact, *(in_console(text, keep="\n") for text in texts))
    return shown


def _facts(baseline: StoredRun, stored: StoredRun, decided: Verdict, margin: str) -> dict[str, str]:
    ratio, difference, change = decided.speedup, decided.accuracy, changes(baseline.samples, stored.samples)
    test, forwards = decided.non_inferiority, speedup(baseline.samples, stored.samples, cost="nfe")
    return {
        "paired problems (speed)": f"{ratio.documents}"
        + (f", {ratio.left_out} left out without useful tokens" if ratio.left_out else ""),
        "speed-up [95%]": _interval(ratio.estimate, ratio.low, ratio.high, 1),
        "p of no speed difference (Holm)": _p(decided.speed_p),
        "problems to detect this speed-up": _count(decided.speed_documents_needed),
        "tokens per forward, ratio [95%]": _interval(forwards.estimate, forwards.low, forwards.high, 1),
        "useful tokens, relative": percent(decided.length_ratio)
        + ("" if decided.length_ratio is None else " %"),
        "speed claim": (decided.flag and f"void: {decided.flag}") or decided.speed,
        "pass@1 baseline (%)": accuracy(baseline.summary),
        "pass@1 (%)": accuracy(stored.summary),
        "only baseline / only this solves": f"{int((change < 0).sum())} / {int((change > 0).sum())} of "
        f"{len(change)}",
        "difference (pp) [95% bootstrap]": _interval(
            difference.estimate, difference.low, difference.high, 100
        ),
        "exact McNemar p (Holm)": _p(decided.accuracy_p),
        "difference (pp) [95% score]": UNKNOWN
        if test is None
        else f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]",
        f"non-inferior{margin}": UNKNOWN if test is None else test.decision,
        "problems that would decide": UNKNOWN if test is None else _count(test.documents_needed),
    }


def _interval(estimate: float | None, low: float | None, high: float | None, scale: float) -> str:
    if estimate is None:
        return UNKNOWN
    show = (lambda value: f"{scale * value:+.1f}") if scale != 1 else number
    return (
        f"{show(estimate)} [{show(low)}, {show(high)}]"
        if low is not None and high is not None
        else show(estimate)
    )


def _p(value: float | None) -> str:
    return UNKNOWN if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "no affordable number" if value is None else f"about {value:,}"
