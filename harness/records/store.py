"""The run store: ``<root>/<device>/<suite>/<run id>/{run.json, samples.jsonl}``.

A sample is one line, flushed to the disk before the next sample starts. A killed run is continued by the
same command with exactly the missing samples.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from harness.errors import UserError
from harness.records.files import LineFile
from harness.records.schema import Run, Sample, read_run, read_samples, write_run


class StoreError(UserError, OSError):
    """An output folder that cannot be used."""


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunFolder:
    """One run on disk, locked against a second writer while open."""

    def __init__(self, root: Path, run: Run, fresh: bool) -> None:
        self.path = root / run.plan.device_name / run.plan.suite / run.run_id
        if fresh and self.path.exists():
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise StoreError(f"cannot write to {self.path} ({error.strerror}): choose another folder with --output_path") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"{self.path} is being written by another process: wait for it or choose another --output_path") from None
        self.run = self._continue(run)
        self.samples = {(sample.doc_id, sample.repeat): sample for sample in read_samples(self.path)}
        self._file: LineFile | None = None

    def _continue(self, run: Run) -> Run:
        if not (self.path / "run.json").exists():
            write_run(self.path, run)
            return run
        stored = read_run(self.path)
        if stored.plan != run.plan:
            raise StoreError(f"{self.path} holds another plan under the same id; use --fresh to replace it")
        return stored

    @property
    def complete(self) -> bool:
        return self.run.status == "complete"

    def missing(self, keys: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the (doc_id, repeat) keys that have no stored sample."""
        return [key for key in keys if key not in self.samples]

    def append(self, sample: Sample) -> None:
        """Write one sample and force it to the disk."""
        if self._file is None:
            self._file = LineFile(self.path / "samples.jsonl")
        self._file.append(sample.model_dump_json().encode())
        self.samples[sample.doc_id, sample.repeat] = sample

    def ordered(self) -> list[Sample]:
        """Samples in (doc_id, repeat) order."""
        return [self.samples[key] for key in sorted(self.samples)]

    def save(self) -> None:
        write_run(self.path, self.run)

    def close(self) -> None:
        """Release the lock and the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.close()
        (self.path / ".lock").unlink(missing_ok=True)
