"""The manifest of a submission held against the folder that it stands in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness.records.files import digest
from harness.records.outside import brief
from harness.records.schema import find_runs, read_run
from harness.records.submission import (
    MANIFEST,
    Submission,
    file_faults,
    files_of,
    machine,
    read_submission,
    row_of,
)
from harness.runs.recheck import Check, Difference, checked, compare


def ordinary(folder: Path) -> str:
    """Whether a folder holds ordinary files alone."""
    return f"{len(files_of(folder))} ordinary ones, no links"


def against_manifest(folder: Path) -> list[Check]:
    """Checks ``manifest``, ``hashes`` and ``rows``; the later ones only where there is a manifest."""
    found: list[Submission] = []

    def read() -> str:
        found.append(read_submission(folder))
        who = "nobody named" if found[0].by is None else brief(found[0].by)
        return f"{len(found[0].rows)} rows by {who}"

    first = checked("manifest", read)
    works = {"hashes": _hashes, "rows": _rows} if found else {}
    return [first, *(checked(name, partial(work, folder, found[0])) for name, work in works.items())]


def _hashes(folder: Path, submission: Submission) -> str:
    faults = list(file_faults(folder, submission))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Difference(f"{MANIFEST}: {faults[0]}{more}")
    return f"{len(submission.files)} files, each as the manifest has it"


def _rows(folder: Path, submission: Submission) -> str:
    """Every row of the manifest is a run of the folder, and the other way round."""
    runs = {place.relative_to(folder).as_posix(): read_run(place) for place in find_runs(folder)}
    told = {row.folder: row for row in submission.rows}
    for place in _odd(list(runs), list(told), [row.folder for row in submission.rows]):
        raise Difference(f"{MANIFEST}: rows and runs differ at {brief(place)}")
    for place, run in sorted(runs.items()):
        for name, value in row_of(run).model_dump().items():
            compare(MANIFEST, f"row {run.run_id}: {name}", getattr(told[place], name), value)
        if digest(machine(run)) != digest(submission.machine):
            compare(MANIFEST, f"machine of row {run.run_id}", submission.machine, machine(run))
    return f"{len(told)} rows are the runs in the folder, of one machine"


def _odd(runs: list[str], rows: list[str], named: list[str]) -> Iterator[str]:
    """Places that only one side has, or that the manifest names twice."""
    yield from sorted(set(runs) ^ set(rows))
    yield from sorted({place for place in named if named.count(place) > 1})
