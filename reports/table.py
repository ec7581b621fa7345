"""One table per comparability key, protocol, machine and submission: a row per run, with its verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.decoding.settings import setting_text
from harness.records.schema import Plan
from harness.statistics.blocks import BlockMeans, block_means
from harness.statistics.verdict import NEAR_ZERO, Verdict, adjust, rank, verdict
from reports.load import StoredRun, comparable, set_apart

if TYPE_CHECKING:
    import pandas as pd

BASELINE_METHOD = "vanilla"
UNTOLD = "none"
DIGITS = "%.6g"
"""Figures as they are written to files: the last digits of a float differ between versions of a library."""


@dataclass(frozen=True)
class TableRow:
    """A run, its settings worth naming, and its verdict (None: it is the baseline, or there is none)."""

    stored: StoredRun
    settings: dict[str, Any]
    verdict: Verdict | None
    is_baseline: bool

    @cached_property
    def blocks(self) -> list[BlockMeans]:
        """Figures of each block of divided answers."""
        return block_means(self.stored.samples)

    @property
    def label(self) -> str:
        """Method and settings on one line, such as ``fast_dllm threshold=0.9``."""
        return " ".join(
            [
                self.stored.run.plan.method,
                *(setting_text(name, value) for name, value in self.settings.items()),
            ]
        )


@dataclass(frozen=True)
class Table:
    """Runs that share a comparability key: non-inferior ones first, then those left open, then worse ones;
    each fastest first. ``apart``: what tells them from the rows of another table with that key.
    """

    key: str
    rows: Sequence[TableRow]
    apart: Mapping[str, Any] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        return self.rows[0].stored.run.plan.suite

    @property
    def prompt(self) -> str:
        """How the prompts were written, where that is not the suite's own way:
        ``template words, 2-shot (seed 1)``; else empty.
        """
        told, parts = self.comparability, []
        if told.get("template"):
            parts.append(f"template {told['template']}")
        if told.get("num_fewshot") is not None:
            parts.append(
                f"{told['num_fewshot']}-shot"
                + (f" (seed {told.get('fewshot_seed')})" if told["num_fewshot"] else "")
            )
        if told.get("chat_template"):
            parts.append("chat template")
        return ", ".join(parts)

    @property
    def heading(self) -> str:
        """Suite, how its prompts were written, prompts per call if more than one, and what sets the table
        apart from another of its key.
        """
        told = (f"{name} {UNTOLD if value is None else value}" for name, value in self.apart.items())
        batch = [f"batch {self.batch_size}"] if self.batch_size > 1 else []
        return ", ".join([self.suite, *([self.prompt] if self.prompt else []), *batch, *told])

    @property
    def batch_size(self) -> int:
        """Prompts per decode call, of every row."""
        return self.rows[0].stored.run.plan.batch_size

    @property
    def comparability(self) -> dict[str, Any]:
        return self.rows[0].stored.run.comparability

    @property
    def documents(self) -> int:
        """Most documents any run of the table has."""
        return max(len({sample.doc_id for sample in row.stored.samples}) for row in self.rows)

    @property
    def baseline(self) -> TableRow | None:
        return next((row for row in self.rows if row.is_baseline), None)

    @property
    def near_zero(self) -> bool:
        """Whether no method solves enough of the suite for its accuracy column to say anything."""
        rates = [rate for row in self.rows if (rate := row.stored.summary.pass_at_1) is not None]
        return bool(rates) and max(rates) < NEAR_ZERO

    @property
    def fingerprint(self) -> str:
        """Hash of every figure in the table."""
        return hashlib.sha256(self.frame.to_csv(index=False, float_format=DIGITS).encode()).hexdigest()[:16]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One line per run, raw numbers (seconds, bytes, tokens per second, fractions; NaN: unknown)."""
        import pandas as pd  # a run that prints its table needs no frame, and no half second to import one

        return pd.DataFrame([_record(row) for row in self.rows])


def build(runs: Sequence[StoredRun]) -> list[Table]:
    """Tables of all runs that may be shown, ordered by suite, its own prompts first; suites that nothing
    solves come last.
    """
    groups = comparable(runs)
    tables = [
        replace(_table(key, group), apart=apart)
        for (key, group), apart in zip(groups.items(), set_apart(groups.values()), strict=True)
    ]
    return sorted(tables, key=lambda table: (table.near_zero, table.suite, table.prompt, table.batch_size))


def choose_baseline(runs: Sequence[StoredRun]) -> StoredRun | None:
    """The vanilla run with the most forwards (one token per step); the first by run id among equals."""
    candidates = [
        stored
        for stored in runs
        if stored.run.plan.method == BASELINE_METHOD and stored.summary.nfe is not None
    ]
    return min(candidates, key=lambda stored: (-(stored.summary.nfe or 0), stored.run.run_id), default=None)


def _table(key: str, runs: Sequence[StoredRun]) -> Table:
    baseline = choose_baseline(runs)
    others = [stored for stored in runs if stored is not baseline]
    verdicts = (
        adjust([verdict(baseline.samples, stored.samples) for stored in others])
        if baseline
        else [None] * len(others)
    )
    rows = [
        TableRow(stored, _settings(stored, runs), decided, False)
        for stored, decided in zip(others, verdicts, strict=True)
    ]
    if baseline:
        rows.append(TableRow(baseline, _settings(baseline, runs), None, True))
    return Table(
        key,
        sorted(
            rows, key=lambda row: (rank(row.verdict), -(row.stored.summary.tps or 0), row.stored.run.run_id)
        ),
    )


def _settings(stored: StoredRun, runs: Sequence[StoredRun]) -> dict[str, Any]:
    """Settings to name: those changed from their defaults, and those that differ from what most runs of the
    method have.
    """
    plans = [other.run.plan for other in runs if other.run.plan.method == stored.run.plan.method]
    changed = stored.run.changed or {}
    named = {
        name: value
        for name, value in stored.run.plan.settings.items()
        if name in changed or unusual(value, [plan.settings.get(name) for plan in plans])
    }
    if unusual(name := _adapter(stored.run.plan, plans), [_adapter(plan, plans) for plan in plans]):
        named["adapter"] = name
    if any(plan.seed != stored.run.plan.seed for plan in plans):
        named["seed"] = stored.run.plan.seed
    return named


def unusual(value: Any, all_values: Sequence[Any]) -> bool:
    """Whether no more than half of the values are this one."""
    return 2 * sum(other == value for other in all_values) <= len(all_values)


def _adapter(plan: Plan, plans: Sequence[Plan]) -> str | None:
    """Name of the adapter's folder, with its hash where another adapter goes by the same name."""
    if plan.adapter is None:
        return None
    name = Path(plan.adapter).name
    namesakes = {
        other.adapter_hash
        for other in plans
        if other.adapter is not None and Path(other.adapter).name == name
    }
    return name if len(namesakes) == 1 else f"{name}@{(plan.adapter_hash or '')[:6]}"


def _record(row: TableRow) -> dict[str, Any]:
    run, figures, decided = row.stored.run, row.stored.summary, row.verdict
    return {
        "method": run.plan.method,
        "settings": " ".join(setting_text(name, value) for name, value in row.settings.items()),
        "baseline": row.is_baseline,
        "tps": figures.tps,
        "speedup": decided.speedup.estimate if decided else 1.0 if row.is_baseline else None,
        "speedup_low": decided.speedup.low if decided else None,
        "speedup_high": decided.speedup.high if decided else None,
        "speed": decided.speed if decided else None,
        "pass_at_1": figures.pass_at_1,
        "pass_at_1_low": figures.pass_at_1_low,
        "pass_at_1_high": figures.pass_at_1_high,
        "non_inferior": decided.non_inferiority.decision if decided and decided.non_inferiority else None,
        "verdict": decided.text if decided else "baseline" if row.is_baseline else None,
        "tpf": figures.tpf,
        "nfe": figures.nfe,
        "latency_p50": figures.latency_p50,
        "latency_p90": figures.latency_p90,
        "first_block_p50": figures.first_block_p50,
        "peak_memory_bytes": figures.peak_memory_bytes,
        "work": figures.work,
        "useful": figures.useful,
        "waste": figures.waste,
        "forward_share": figures.forward_share,
        "select_share": figures.select_share,
        "roof_share": figures.roof_share,
        **{
            f"{name}_{block.name.lower()}": getattr(block, name)
            for block in row.blocks
            for name in ("useful", "done", "confidence")
        },
        "samples": figures.samples,
        "errors": figures.errors,
        "run_id": run.run_id,
    }
