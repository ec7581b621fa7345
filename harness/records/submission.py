"""A submission: runs of one machine in a folder of their own, with a manifest of what they are and a hash of
every file.

``FOLDER/submission.json``, ``FOLDER/<device>/<suite>/<run id>/{run.json, samples.jsonl.xz}``, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.records.files import pack, packed, whole_lines, write_atomic
from harness.records.outside import brief, read_json, reason
from harness.records.printable import printable
from harness.records.schema import Record, RecordError, Run, write_run

MANIFEST = "submission.json"
SAMPLES = "samples.jsonl"
SUBMISSION_VERSION = 1
MOST_FILES = 10_000
ADVICE = "make the folder anew with `bench submit`"
_CHUNK = 1 << 20


class SubmittedFile(Record):
    sha256: str
    bytes: int


class SubmittedRow(Record):
    """What a run says of itself, told again where a reader of the pull request looks first."""

    run_id: str
    folder: str = Field(description="the run's folder, seen from the manifest")
    suite: str
    model: str
    weights_hash: str
    method: str
    method_source: str
    isolated: bool | None
    settings: dict[str, Any]
    protocol: str
    device: str
    dtype: str
    threads: int | None
    batch_size: int
    comparability_key: str
    commit: str | None
    samples: int | None
    tps: float | None
    pass_at_1: float | None


class Submission(Record):
    """``submission.json``."""

    schema_version: int = SUBMISSION_VERSION
    created: str
    by: str | None = Field(default=None, description="who submits; null: not said")
    note: str | None = Field(default=None, description="how the settings were chosen; null: not said")
    machine: dict[str, Any] = Field(description="what all rows ran on; no host name, no path")
    rows: list[SubmittedRow] = Field(min_length=1)
    files: dict[str, SubmittedFile] = Field(description="every file but this one, by its place in the folder")


def machine(run: Run) -> dict[str, Any]:
    """The hardware behind a run and the version that its speed depends on most, by name; null: not told."""
    told = run.environment
    versions = told.get("versions")
    torch = versions.get("torch") if isinstance(versions, dict) else None
    return {
        **{name: told.get(name) for name in ("cpu", "cores", "gpu", "gpu_driver", "cuda")},
        "torch": torch,
    }


def row_of(run: Run) -> SubmittedRow:
    """The manifest's line of a run."""
    plan, git, figures = run.plan, run.environment.get("git"), run.summary
    shared = ("suite", "model", "weights_hash", "method", "method_source", "isolated", "settings", "protocol")
    return SubmittedRow(
        run_id=run.run_id,
        folder=f"{run.plan.device_name}/{run.plan.suite}/{run.run_id}",
        **{name: getattr(plan, name) for name in (*shared, "dtype", "threads", "batch_size")},
        device=plan.device_name,
        comparability_key=run.comparability_key,
        commit=git.get("commit") if isinstance(git, dict) else None,
        samples=None if figures is None else figures.samples,
        tps=None if figures is None else figures.tps,
        pass_at_1=None if figures is None else figures.pass_at_1,
    )


def read_submission(folder: Path) -> Submission:
    """The manifest of a folder; RecordError for one that is missing, no manifest, or names other places."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.exists():
        raise RecordError(f"{path} is not there as a file of its own: {ADVICE}")
    try:
        found = Submission.model_validate(read_json(path, RecordError, advice=ADVICE))
    except ValidationError as fault:
        raise RecordError(f"{path} is no manifest ({printable(reason(fault))}): {ADVICE}") from None
    if found.schema_version != SUBMISSION_VERSION:
        raise RecordError(
            f"{path} has schema_version {brief(found.schema_version)}, not {SUBMISSION_VERSION}"
        )
    return found


def refuse_existing(folder: Path) -> None:
    """RecordError for a folder that is there already."""
    if folder.exists():
        raise RecordError(f"{folder} is there already: remove it, or choose another folder with --output")


def write_folder(folder: Path, submission: Submission, runs: Mapping[str, tuple[Path, Run]]) -> Submission:
    """Write a whole submission at once: ``runs`` is, by their places in it, where the samples lie and what
    run.json is to hold. Returns the manifest, with all files in it.

    RecordError for a folder that is there already or cannot be written; then nothing is left of it.
    """
    refuse_existing(folder)
    half = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for place, (source, run) in runs.items():
            (half / place).mkdir(parents=True)
            write_run(half / place, run)
            samples = half / place / SAMPLES
            samples.write_bytes(b"".join(line + b"\n" for _, line in whole_lines(source / SAMPLES)))
            pack(samples)
        hashes = {place: hashed(path) for place, path in files_of(half).items()}
        done = submission.model_copy(update={"files": hashes})
        text = json.dumps(done.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomic(half / MANIFEST, text + "\n")
        half.rename(folder)
    except OSError as fault:
        raise RecordError(f"cannot write {folder} ({reason(fault)}): choose another --output") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return done


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below a folder but the manifest, by its place there.

    RecordError for what no submission holds: a link, a device, a name with control characters, ten thousand
    files.
    """
    found = {}
    for path in _walk(folder):
        place = path.relative_to(folder).as_posix()
        kind = path.lstat().st_mode
        if printable(place) != place or "\\" in place:
            raise RecordError(f"{folder} holds a file with an odd name, {brief(place)}: remove it")
        if stat.S_ISLNK(kind):
            raise RecordError(f"{path} is a symbolic link: a submission holds files of its own only")
        if not stat.S_ISREG(kind):
            raise RecordError(f"{path} is no regular file: a submission holds files only")
        found[place] = path
        if len(found) > MOST_FILES:
            raise RecordError(f"{folder} holds more than {MOST_FILES:,} files, as no submission does")
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder itself; links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        yield from (here / name for name in names)
        yield from (here / name for name in folders if (here / name).is_symlink())


def hashed(path: Path) -> SubmittedFile:
    """Hash and size of a file."""
    found, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            found.update(part)
            size += len(part)
    return SubmittedFile(sha256=found.hexdigest(), bytes=size)


def file_faults(folder: Path, submission: Submission) -> Iterator[str]:
    """Files that are not the manifest's: changed, missing, or there without a word."""
    there = files_of(folder)
    for place, told in sorted(submission.files.items()):
        if place not in there:
            yield f"{printable(place)} is in the manifest and not in the folder"
        elif (found := hashed(there[place])) != told:
            field = "bytes" if found.bytes != told.bytes else "sha256"
            stored, now = (printable(getattr(one, field))[:16] for one in (told, found))
            yield f"{place}: {field} stored {stored}, recomputed {now}"
    for place in there.keys() - submission.files.keys():
        yield f"{place} is in the folder and not in the manifest"
    wanted = {
        f"{row.folder}/{name}" for row in submission.rows for name in ("run.json", packed(Path(SAMPLES)).name)
    }
    for place in sorted(submission.files.keys() - wanted):
        yield f"{printable(place)} is not run.json or samples.jsonl.xz of one of the rows"


def submission_of(run_folder: Path) -> str | None:
    """Hash of the manifest that a run folder was submitted with (16 hex digits); None: it was not."""
    parents = run_folder.absolute().parents
    path = parents[2] / MANIFEST if len(parents) > 2 else None
    return hashed(path).sha256[:16] if path is not None and path.is_file() else None
