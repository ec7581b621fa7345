"""Numbers as people read them: the same text in Markdown, on the console and on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.records.schema import Summary
from harness.statistics.verdict import Verdict, speed_text
from reports.table import TableRow

UNKNOWN = "n/a"


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, thousands separated; a dash for unknown."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.{digits + 3}f}".rstrip("0") if "e" in text else text


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0%}"


def seconds(value: float | None) -> str:
    """Seconds with a unit that keeps the number short."""
    if value is None:
        return UNKNOWN
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.3g} s"


def memory(value: int | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def accuracy(figures: Summary) -> str:
    """pass@1 in percent with its Wilson 95% interval: ``69.5 [63.6, 74.8]``."""
    if figures.pass_at_1 is None:
        return UNKNOWN
    return (
        f"{percent(figures.pass_at_1)} [{percent(figures.pass_at_1_low)}, {percent(figures.pass_at_1_high)}]"
    )


def speed(row: TableRow) -> str:
    """Speed-up over the baseline with its interval."""
    if row.is_baseline:
        return "1 (baseline)"
    return speed_text(row.verdict) or UNKNOWN if row.verdict else UNKNOWN


def time_shares(figures: Summary) -> tuple[float, float, float] | None:
    """Shares of decode time inside the model, in the method's own code, and in the harness; None: not
    recorded.
    """
    if figures.forward_share is None or figures.select_share is None:
        return None
    return figures.forward_share, figures.select_share, 1 - figures.forward_share - figures.select_share


def _time(figures: Summary) -> str:
    shares = time_shares(figures)
    return UNKNOWN if shares is None else " / ".join(f"{share:.0%}" for share in shares)


def _outside(figures: Summary) -> float | None:
    shares = time_shares(figures)
    return None if shares is None else 1 - shares[0]


def short_verdict(verdict: Verdict | None) -> str:
    """What may be claimed, in a few words: ``faster; within 3 pp: yes``."""
    if verdict is None:
        return ""
    claim = verdict.flag or verdict.speed
    decided = verdict.non_inferiority
    if verdict.near_zero:
        return f"{claim}; no accuracy verdict (near 0)"
    return (
        f"{claim}; accuracy unknown"
        if decided is None
        else f"{claim}; within {100 * decided.margin:g} pp: {decided.decision}"
    )


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard: heading, what it means, its text, and the number it sorts by (None: sorts
    as text).

    An ``optional`` column is shown only where a row of the table has its number.
    """

    heading: str
    meaning: str
    text: Callable[[TableRow], str]
    value: Callable[[TableRow], float | None] | None = None
    optional: bool = False


def _figure(
    name: str, show: Callable[..., str]
) -> tuple[Callable[[TableRow], str], Callable[[TableRow], float | None]]:
    return (lambda row: show(getattr(row.stored.summary, name))), (
        lambda row: getattr(row.stored.summary, name)
    )


def _per_block(name: str) -> tuple[Callable[[TableRow], str], Callable[[TableRow], float | None]]:
    """A figure of each block of divided answers, ``18.2 / 3.1``; sorts by the first."""
    return (
        lambda row: " / ".join(number(getattr(block, name)) for block in row.blocks) or UNKNOWN,
        lambda row: getattr(row.blocks[0], name) if row.blocks else None,
    )


COLUMNS: tuple[Column, ...] = (
    Column("method", "decoder and the settings that set its row apart", lambda row: row.label),
    Column(
        "TPS", "useful tokens per second of decoding; prompt and filler do not count", *_figure("tps", number)
    ),
    Column(
        "speed-up",
        "geometric mean of paired time per useful token against the baseline row, 95% interval",
        speed,
        lambda row: 1.0 if row.is_baseline else row.verdict.speedup.estimate if row.verdict else None,
    ),
    Column(
        "pass@1 (%)",
        "share of problems solved, Wilson 95% interval",
        lambda row: accuracy(row.stored.summary),
        _figure("pass_at_1", percent)[1],
    ),
    Column(
        "verdict",
        "speed claim, and whether accuracy is non-inferior to the baseline",
        lambda row: short_verdict(row.verdict),
    ),
    Column("TPF", "useful tokens per forward pass", *_figure("tpf", number)),
    Column(
        "NFE", "mean forward passes per answer; prefill and cache refreshes count", *_figure("nfe", number)
    ),
    Column(
        "entropy", "mean entropy (nats) of an answer's token histogram", *_figure("output_entropy", number)
    ),
    Column(
        "latency p50 / p90",
        "time until an answer is finished",
        lambda row: f"{seconds(row.stored.summary.latency_p50)} / {seconds(row.stored.summary.latency_p90)}",
        _figure("latency_p50", seconds)[1],
    ),
    Column("memory", "peak memory of the whole process", *_figure("peak_memory_bytes", memory)),
    Column(
        "weights + call",
        "memory of the weights, and peak of a decode call above the level at its start",
        lambda row: (
            f"{memory(row.stored.run.weights_bytes)} + {memory(row.stored.summary.call_memory_bytes)}"
        ),
        lambda row: row.stored.summary.call_memory_bytes,
        True,
    ),
    Column("R / A", "mean useful tokens of reasoning and of answer", *_per_block("useful"), True),
    Column(
        "R / A done",
        "mean forward pass that wrote the last token of reasoning and of answer",
        *_per_block("done"),
        True,
    ),
    Column("work", "query positions computed per useful token", *_figure("work", number)),
    Column(
        "roof",
        "share of what the hardware allows for the forward passes made",
        *_figure("roof_share", _share),
        True,
    ),
    Column(
        "forward / select / harness",
        "shares of decode time: inside the model; the method's own choice of tokens; masks, cache, batching, "
        "writing, stop rule",
        lambda row: _time(row.stored.summary),
        lambda row: _outside(row.stored.summary),
        True,
    ),
    Column("run", "run id: folder of the stored run", lambda row: row.stored.run.run_id),
)


def columns(rows: Sequence[TableRow]) -> list[Column]:
    """The columns that a table with these rows has."""
    return [
        one
        for one in COLUMNS
        if not one.optional or (one.value and any(one.value(row) is not None for row in rows))
    ]
