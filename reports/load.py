"""Stored runs with their samples, sorted into those that may be compared and those that may not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records import evidence
from harness.records.files import digest
from harness.records.schema import Run, Sample, Summary, find_runs, read_run
from harness.records.submission import machine, submission_of
from harness.statistics.summary import summarise


class ReportError(UserError):
    """A report that cannot be made: what is missing, and which argument to change."""


@dataclass(frozen=True)
class StoredRun:
    """A run folder, read.

    ``summary`` is recomputed from the samples, so that a table cannot disagree with them; only the share of
    the hardware's roof is the run's own, because it takes the device to measure it. ``submission``: hash of
    the manifest that it was submitted with; None: it was not.
    """

    folder: Path
    run: Run
    samples: Sequence[Sample]
    summary: Summary
    submission: str | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """What the rows of one table share besides their comparability key, by name: two machines may have
        one name, and two submissions never ran interleaved.
        """
        protocol = {"protocol": self.run.plan.protocol}
        return {**protocol, **machine(self.run), "submission": self.submission}

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
    figures = summarise(samples).model_copy(update={"roof_share": roof_share})
    return StoredRun(folder, run, samples, figures, submission_of(folder))


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


def load(*roots: Path) -> list[StoredRun]:
    """All runs below the folders, in path order. ReportError if there is none, or one lies in two of them;
    RecordError for a damaged one.
    """
    for root in roots:
        if not root.exists():
            raise ReportError(
                f"{root} does not exist: give the folder that `bench run --output_path` wrote to as PATH"
            )
    runs = [read_stored(folder) for root in roots for folder in find_runs(root)]
    if not runs:
        root = " or ".join(map(str, roots))
        raise ReportError(
            f"no runs below {root}: run `bench run --output_path {roots[0]}` first, or give another folder "
            "as PATH"
        )
    if len(roots) > 1:
        _refuse_twins(runs)
    return runs


def _refuse_twins(runs: Sequence[StoredRun]) -> None:
    known: dict[str, StoredRun] = {}
    for stored in runs:
        twin = known.setdefault(digest([stored.run.run_id, stored.conditions]), stored)
        if twin is not stored:
            raise ReportError(f"{stored.folder} and {twin.folder} are one run: name one of them as PATH")


def comparable(runs: Iterable[StoredRun]) -> dict[str, list[StoredRun]]:
    """Runs that may share a table; keys ordered by suite, then by first appearance.

    A key is the comparability key; where runs of one key differ in their ``conditions``, a hash over both.
    """
    groups: dict[str, dict[str, list[StoredRun]]] = {}
    for stored in runs:
        if stored.reason_left_out is None:
            alike = groups.setdefault(stored.run.comparability_key, {})
            alike.setdefault(digest(stored.conditions), []).append(stored)
    tables = {
        key if len(alike) == 1 else digest([key, conditions]): group
        for key, alike in groups.items()
        for conditions, group in alike.items()
    }
    return dict(sorted(tables.items(), key=lambda item: item[1][0].run.plan.suite))


def set_apart(groups: Iterable[Sequence[StoredRun]]) -> list[dict[str, Any]]:
    """Per group of ``comparable``: the conditions that tell it from others of its comparability key; empty
    where it is the only one.
    """
    first = [group[0] for group in groups]
    found = []
    for mine in first:
        key = mine.run.comparability_key
        others = [one.conditions for one in first if one.run.comparability_key == key]
        told = mine.conditions.items()
        found.append({name: value for name, value in told if any(one[name] != value for one in others)})
    return found


def left_out(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Runs that no table may show; ``reason_left_out`` says why."""
    return [stored for stored in runs if stored.reason_left_out is not None]
