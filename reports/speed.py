"""Speed tables: from stored timings to the table of each, in Markdown and on the terminal.

Everything is computed from the lines: medians over all rounds, the share of the roof, tokens/s of a replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid

from harness.measuring.roofline import Roofline
from harness.records.schema import RecordError
from harness.records.speed import LINES, SpeedRun, Timing, find_tables, read_speed
from reports.cells import UNKNOWN, memory, number
from reports.table import setting_text

IDLE = 0.95
"""Share of the timed calls in which a process on an idle machine has its processor."""

ON_PAGES_ONLY = {
    "forward": {"least", "10% - 90%"},
    "replay": {"least - most", "processor", "roof"},
}
"""Columns that a terminal has no room for."""

NOTES = {
    "forward": "ms: one forward pass, from its request to an idle device; median, least and 10th to 90th "
    "percentile of all calls. Processor: ms that a call kept the processor busy, mean. Roof: least time that "
    "the hardware allows; share: roof / median.",
    "replay": "The windows of stored answers forced on this shape, candidates fetched to the host at every "
    "pass: what these forward passes cost, without the method's own code. s per answer: median, least and "
    "most of the rounds. TPS and TPF count the useful tokens of the stored answers, which the model named "
    "wrote. Masks of the run are not recorded, nor how many positions got logits.",
}


@dataclass(frozen=True)
class Line:
    """One cell of a grid over all its rounds, or one replayed run at one number of rows.

    Seconds: ``middle``, ``least``, ``low`` and ``high`` of one call, or of one answer; ``roof`` likewise, and
    ``processor``: the mean that the calls kept the processor busy, null on a GPU.
    """

    first: Timing
    label: str
    middle: float
    least: float
    low: float
    high: float
    roof: float
    processor: float | None
    kernels: tuple[str, ...]
    memory: int | None

    @property
    def share(self) -> float:
        return self.roof / self.middle

    @property
    def tps(self) -> float | None:
        """Useful tokens per second of a replay."""
        if self.first.useful is None or not self.first.answers:
            return None
        return self.first.useful / self.first.answers / self.middle


@dataclass(frozen=True)
class SpeedTable:
    """One stored table."""

    folder: Path
    run: SpeedRun
    timings: Sequence[Timing]

    @cached_property
    def lines(self) -> list[Line]:
        """Cells in the order of the plan; a replay's by rows, then by seconds per answer."""
        found: dict[tuple[object, ...], list[Timing]] = {key[:4]: [] for key in self.run.plan.visits()}
        for timing in self.timings:
            found[timing.key[:4]].append(timing)
        lines = [self._line(visits) for visits in found.values() if visits]
        if self.run.plan.kind == "replay":
            lines.sort(key=lambda line: (line.first.rows, line.middle))
        return lines

    def _line(self, visits: Sequence[Timing]) -> Line:
        first = visits[0]
        if first.answers:
            times = [sum(timing.times_s) / first.answers for timing in visits]
            low, high = min(times), max(times)
        else:
            times = [value for timing in visits for value in timing.times_s]
            low, high = map(float, np.percentile(times, [10, 90]))
        kernels = tuple(sorted({name for timing in visits for name in timing.kernels}))
        peaks = [timing.peak_memory_bytes for timing in visits if timing.peak_memory_bytes is not None]
        return Line(
            first,
            self._label(first),
            median(times),
            min(times),
            low,
            high,
            first.roof_s / (first.answers or 1),
            _processor(visits),
            kernels,
            max(peaks, default=None),
        )

    def _label(self, timing: Timing) -> str:
        if timing.run_id is None:
            return f"{timing.rows} x {timing.query} behind {timing.cached}"
        told = next(one for one in self.run.plan.replays if one.run_id == timing.run_id)
        return " ".join([told.method, *(setting_text(name, value) for name, value in told.changed.items())])

    @property
    def heading(self) -> str:
        """``dream7b, 2 of 28 layers, bfloat16, on cpu-amd-epyc``."""
        plan = self.run.plan
        cut = [] if plan.layers == plan.of_layers else [f"{plan.layers} of {plan.of_layers} layers"]
        masked = [] if plan.block_size is None else [f"block-causal in blocks of {plan.block_size}"]
        threads = [] if plan.threads is None else [f"{plan.threads} thread{'s' * (plan.threads > 1)}"]
        of = sorted({f"{one.model} on {one.suite}" for one in plan.replays})
        replayed = [f"windows of {', '.join(of)}"] if of else []
        prompt = [] if plan.prompt_tokens is None else [f"prompt of {plan.prompt_tokens} tokens"]
        parts = [plan.shape, *cut, plan.dtype, *masked, *replayed, *prompt]
        return f"{', '.join(parts)}, on {', '.join([plan.device_name, *threads])}"

    @property
    def processor_share(self) -> float | None:
        """Share of the timed calls in which the process had its processor; a busy machine's times are too
        long. None on a GPU.
        """
        spent = sum(sum(timing.times_s) for timing in self.timings)
        had = sum(timing.processor_s or 0.0 for timing in self.timings)
        return had / spent / self.run.plan.threads if self.run.plan.threads and spent else None

    @property
    def facts(self) -> list[str]:
        """What made the table, in plain sentences."""
        plan, hardware = self.run.plan, Roofline.from_record(self.run.roofline).hardware
        git = self.run.environment.get("git")
        changed = isinstance(git, dict) and git.get("dirty")
        dirty = " with changes that are not committed" if changed else ""
        done = (
            "" if self.run.status == "complete" else f"; {len(self.timings)} of {len(plan.visits())} visits"
        )
        times = (
            f"{plan.rounds} rounds A B B A, {plan.repeats} calls each after {plan.warm_up} unrecorded"
            if plan.kind == "forward"
            else f"{plan.rounds} rounds A B B A, the first batch unrecorded before each"
        )
        had = self.processor_share
        busy = [] if had is None else [_busy(had)]
        again = len(self.run.roofline.get("again", []))
        return [
            f"{times}; logits at {plan.logits} positions per row at most{done}.",
            f"Roof: {hardware.bandwidth / 1e9:.4g} GB/s and {hardware.flops / 1e12:.3g} TFLOP/s"
            + (f", measured {again} more times because calls beat it" if again else ", measured")
            + f"; attention {plan.attention}{', layers compiled' if plan.compiled else ''}.",
            *busy,
            f"torch {plan.torch}, commit {(plan.commit or 'unknown')[:12]}{dirty}, {self.run.created[:10]}; "
            f"table `{self.run.id}`.",
        ]


def _processor(visits: Sequence[Timing]) -> float | None:
    """Processor seconds of one call or answer, mean over all visits."""
    if any(timing.processor_s is None for timing in visits):
        return None
    count = sum(timing.answers or len(timing.times_s) for timing in visits)
    return sum(timing.processor_s or 0.0 for timing in visits) / count


def _busy(had: float) -> str:
    text = f"The process had its processor for {had:.0%} of the timed calls"
    if had >= IDLE:
        return f"{text}."
    return (
        f"{text}: a busy machine. Its times are too long, a roof that it measured itself may be far too low, "
        "and shares mean nothing; only processor time tells something."
    )


def load_speed(root: Path) -> list[SpeedTable]:
    """All tables below ``root``; RecordError for one that is damaged, or whose roofs are not those of its
    header.
    """
    return [_checked(SpeedTable(folder, *read_speed(folder))) for folder in find_tables(root)]


def _checked(table: SpeedTable) -> SpeedTable:
    roofline = Roofline.from_record(table.run.roofline)
    for timing in table.timings:
        if timing.query is None or timing.cached is None:
            continue
        roof = roofline.seconds([(timing.query, timing.cached)] * timing.rows)
        if abs(roof - timing.roof_s) > 1e-6 * roof:
            raise RecordError(
                f"{table.folder / LINES}: roof_s of {timing.rows} rows of {timing.query} behind "
                f"{timing.cached} is {timing.roof_s}, the header's roofline gives {roof}: move the folder "
                "away or use --fresh"
            )
    return table


def headings(table: SpeedTable) -> list[str]:
    """Columns of a table; all but a replay's first are numbers up to ``kernel``."""
    common = ["processor", "roof", "share of roof", "memory", "kernel"]
    if table.run.plan.kind == "forward":
        return ["rows", "query", "cached", "ms", "least", "10% - 90%", *common]
    return ["method", "rows", "s per answer", "least - most", "TPS", "NFE", "TPF", *common]


def cells(table: SpeedTable, line: Line) -> list[tuple[str, float | None]]:
    """(text, number to sort by) for each column."""
    first = line.first
    end: list[tuple[str, float | None]] = [
        (f"{line.share:.0%}", line.share),
        (memory(line.memory), line.memory),
        (", ".join(line.kernels), None),
    ]
    if table.run.plan.kind == "forward":
        return [
            (str(first.rows), first.rows),
            (str(first.query), first.query),
            (str(first.cached), first.cached),
            _ms(line.middle),
            _ms(line.least),
            (f"{_ms(line.low)[0]} - {_ms(line.high)[0]}", line.high),
            (UNKNOWN, None) if line.processor is None else _ms(line.processor),
            _ms(line.roof),
            *end,
        ]
    answers, nfe, useful = first.answers or 1, first.nfe or 1, first.useful or 0
    return [
        (line.label, None),
        (str(first.rows), first.rows),
        (number(line.middle), line.middle),
        (f"{number(line.low)} - {number(line.high)}", line.high),
        (number(line.tps), line.tps),
        (number(nfe / answers), nfe / answers),
        (number(useful / nfe), useful / nfe),
        (number(line.processor), line.processor),
        (number(line.roof), line.roof),
        *end,
    ]


def _ms(seconds: float) -> tuple[str, float]:
    return number(1000 * seconds), seconds


def markdown(tables: Iterable[SpeedTable], pictures: str = "plots") -> str:
    """All tables, each with its picture (in the folder ``pictures``) and how it was made; ends with a
    newline.
    """
    parts = ["# Forward passes of a shape\n"]
    for table in tables:
        names = headings(table)
        numbers = [text not in ("method", "kernel") for text in names]
        parts += [
            f"## {table.heading}\n",
            f"![{table.run.id}]({pictures}/{table.run.id}.png)\n",
            f"| {' | '.join(names)} |",
            f"| {' | '.join('--:' if right else '---' for right in numbers)} |",
            *(f"| {' | '.join(text for text, _ in cells(table, line))} |" for line in table.lines),
            "",
            f"{NOTES[table.run.plan.kind]}\n",
            *(f"- {fact}" for fact in table.facts),
            "",
        ]
    return "\n".join(parts)


def grid(table: SpeedTable) -> Grid:
    """The table on a terminal of 80 columns: without spreads, which the report has, and with the kernel
    beside the facts where all lines share it.
    """
    names = headings(table)
    kernels = {line.kernels for line in table.lines}
    left_out = {*ON_PAGES_ONLY[table.run.plan.kind], *(["kernel"] if len(kernels) == 1 else [])}
    chosen = [i for i, name in enumerate(names) if name not in left_out]
    used = [f"Kernel: {', '.join(kernels.pop()) or 'unknown'}."] if len(kernels) == 1 else []
    shown = Grid(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=table.heading,
        title_justify="left",
        caption=" ".join([*table.facts, *used]),
        caption_justify="left",
    )
    for name in (names[i] for i in chosen):
        if name in ("method", "kernel"):
            shown.add_column(name, overflow="fold")
        else:
            shown.add_column(name, justify="right", no_wrap=True)
    for line in table.lines:
        told = cells(table, line)
        shown.add_row(*(told[i][0] for i in chosen))
    return shown
