"""Stored runs with their samples, sorted into those that may be compared and those that may not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.records import evidence
from harness.records.schema import Run, Sample, Summary, find_runs, read_run
from harness.statistics.summary import summarise


class ReportError(UserError):
    """A report that cannot be made: what is missing, and which argument to change."""


@dataclass(frozen=True)
class StoredRun:
    """A run folder, read.

    ``summary`` is recomputed from the samples, so that a table cannot disagree with them; only the share of
    the hardware's roof is the run's own, because it takes the device to measure it.
    """

    folder: Path
    run: Run
    samples: Sequence[Sample]
    summary: Summary

    @property
    def reason_left_out(self) -> str | None:
        """Why this run may not stand in a table; None: it may."""
        if self.run.status != "complete":
            return f"incomplete: {self.summary.samples} samples so far; run its command again to continue"
        if (lacking := evidence.lacking(self.run, len(self.samples))) is not None:
            return f"calls itself complete with {lacking}; run its command again to continue"
        if self.run.audit is None:
            return "not audited"
        if not self.run.audit.passed:
            failed = [
                f"{check.name} ({check.detail})" if check.detail else check.name
                for check in self.run.audit.checks
                if not check.passed
            ]
            return f"audit failed: {', '.join(failed) or 'no reason recorded'}"
        return None if self.samples else "no samples"


def read_stored(folder: Path) -> StoredRun:
    """Read one run folder; RecordError names a file and line that is damaged or does not belong to the
    run.
    """
    run = read_run(folder)
    samples = evidence.read_evidence(folder, run)
    roof_share = run.summary.roof_share if run.summary else None
    return StoredRun(folder, run, samples, summarise(samples).model_copy(update={"roof_share": roof_share}))


def find_run(name: str, root: Path) -> Path:
    """A run folder by path, or by run id below ``root``; ReportError if there is not exactly one."""
    if Path(name).is_dir():
        return Path(name)
    found = (
        [path.parent for path in root.rglob("run.json") if path.parent.name == name] if root.is_dir() else []
    )
    if len(found) != 1:
        problem = "no run folder of that name" if not found else f"{len(found)} run folders of that name"
        raise ReportError(
            f"{name}: {problem} below {root}; give the folder's path, or where runs are with --runs"
        )
    return found[0]


def load(root: Path) -> list[StoredRun]:
    """All runs below ``root``, in path order. ReportError if there is none, RecordError for a damaged one."""
    if not root.exists():
        raise ReportError(
            f"{root} does not exist: give the folder that `bench run --output_path` wrote to as PATH"
        )
    runs = [read_stored(folder) for folder in find_runs(root)]
    if not runs:
        raise ReportError(
            f"no runs below {root}: run `bench run --output_path {root}` first, or give another folder "
            "as PATH"
        )
    return runs


def comparable(runs: Iterable[StoredRun]) -> dict[str, list[StoredRun]]:
    """Runs that may share a table, by comparability key; keys ordered by suite, then by first appearance."""
    groups: dict[str, list[StoredRun]] = {}
    for stored in runs:
        if stored.reason_left_out is None:
            groups.setdefault(stored.run.comparability_key, []).append(stored)
    return dict(sorted(groups.items(), key=lambda item: item[1][0].run.plan.suite))


def left_out(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Runs that no table may show; ``reason_left_out`` says why."""
    return [stored for stored in runs if stored.reason_left_out is not None]
