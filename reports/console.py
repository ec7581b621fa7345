"""Tables on the terminal: what ``bench run`` prints at its end and what ``bench compare`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
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


def grid(table: Table) -> Grid:
    """The columns that fit a terminal; the baseline row is bold."""
    columns = [column for column in COLUMNS if column.heading in _SHOWN]
    model = table.rows[0].stored.run.plan.model
    title = f"{table.heading}: {table.documents} problems, {model} on {device(table)}"
    shown = Grid(title=in_console(title), title_justify="left")
    for column in columns:
        shown.add_column(column.heading, justify="left" if column.value is None else "right", overflow="fold")
    for row in table.rows:
        style = "bold" if row.is_baseline else _STYLES.get(row.verdict.speed, "") if row.verdict else ""
        shown.add_row(*(in_console(column.text(row)) for column in columns), style=style)
    return shown


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
    """Everything known about each run against the baseline, one column per run."""
    shown = Grid(title=in_console(f"against {baseline.run.run_id}"), title_justify="left")
    shown.add_column("")
    for stored, _ in others:
        shown.add_column(in_console(stored.run.run_id), overflow="fold")
    rows = [_facts(baseline, stored, decided) for stored, decided in others]
    for name in rows[0]:
        shown.add_row(name, *(in_console(row[name]) for row in rows))
    lines = (Text(printable(f"{stored.run.run_id}: {decided.text}")) for stored, decided in others)
    return Group(shown, *lines)


def _facts(baseline: StoredRun, stored: StoredRun, decided: Verdict) -> dict[str, str]:
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
        "non-inferior": UNKNOWN if test is None else f"{test.decision} (margin {100 * test.margin:g} pp)",
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
