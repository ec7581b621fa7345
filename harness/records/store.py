"""The run store: ``<root>/<device>/<suite>/<run id>/{run.json, samples.jsonl}``.

A sample is one line, flushed to the disk before the next sample starts. A killed run is continued by the
same command with exactly the missing samples. A finished run's samples may be packed (``bench pack``).
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from harness.errors import UserError
from harness.records.evidence import read_evidence, sealed
from harness.records.files import LineFile, whole_lines
from harness.records.schema import Run, Sample, read_run, write_run

log = logging.getLogger(__name__)
Key = tuple[int, int]


class StoreError(UserError, OSError):
    """An output folder that cannot be used."""


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Lock:
    """A file beside what it guards, so that nothing that happens to the folder sets it free."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f".{folder.name}.lock")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = self._taken(folder)

    def _taken(self, folder: Path) -> IO[str]:
        while True:
            file = self.path.open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                raise StoreError(
                    f"{folder} is being written by another process: wait for it or choose another "
                    "--output_path"
                ) from None
            # Who held the lock before may have removed this file in between: then it guards nothing.
            if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                return file
            file.close()

    def free(self) -> None:
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()


class RunFolder:
    """One run on disk, locked against a second writer while open."""

    def __init__(self, root: Path, run: Run, fresh: bool) -> None:
        self.path = root / run.plan.device_name / run.plan.suite / run.run_id
        self._expected: Sequence[Key] = ()
        self._file: LineFile | None = None
        self.samples: dict[Key, Sample] = {}
        with self._writing("choose another folder with --output_path"):
            self._lock = Lock(self.path)
        try:
            with self._writing("choose another folder with --output_path"):
                if fresh and self.path.exists():
                    shutil.rmtree(self.path)
                self.path.mkdir(exist_ok=True)
                self.run = self._continue(run)
            self.samples = {
                (sample.doc_id, sample.repeat): sample for sample in read_evidence(self.path, self.run)
            }
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _writing(self, advice: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write to {self.path} ({error.strerror}): {advice}") from None

    def _continue(self, run: Run) -> Run:
        if not (self.path / "run.json").exists():
            write_run(self.path, run)
            return run
        stored = read_run(self.path)
        if stored.plan != run.plan:
            raise StoreError(f"{self.path} holds another plan under the same id; use --fresh to replace it")
        return stored

    def expect(self, keys: Sequence[Key], prompt_hashes: Mapping[int, str] | None = None) -> None:
        """Name the (doc_id, repeat) keys of the whole run; StoreError if a stored sample is none of them or
        had another prompt.

        A run that calls itself complete and lacks some is open again.
        """
        known = set(keys)
        for (document, repeat), sample in self.samples.items():
            if (document, repeat) not in known:
                what = f"document {document}, repeat {repeat}, which is not of this run"
            elif prompt_hashes is not None and sample.prompt_hash != prompt_hashes[document]:
                what = f"document {document} with another prompt"
            else:
                continue
            raise StoreError(
                f"{self.path / 'samples.jsonl'} holds {what}: move the folder away or use --fresh"
            )
        self._expected = keys
        if self.complete and (missing := self.missing(keys)):
            log.warning(
                "%s calls itself complete and lacks %d of %d samples: they are run now",
                self.path,
                len(missing),
                len(keys),
            )
            self.run.status, self.run.finished = "running", None

    @property
    def complete(self) -> bool:
        return self.run.status == "complete"

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the (doc_id, repeat) keys that have no stored sample."""
        return [key for key in keys if key not in self.samples]

    @property
    def stored(self) -> int:
        """Samples on the disk, the one included whose writing was interrupted behind its last byte."""
        return sum(1 for _ in whole_lines(self.path / "samples.jsonl"))

    @property
    def next_batch(self) -> int:
        """A number that no stored batch has."""
        return 1 + max(
            (sample.batch for sample in self.samples.values() if sample.batch is not None), default=-1
        )

    def append(self, sample: Sample) -> None:
        """Write one sample and force it to the disk."""
        with self._writing(self._safe):
            if self._file is None:
                self._file = LineFile(self.path / "samples.jsonl")
            self._file.append(sealed(sample))
        self.samples[sample.doc_id, sample.repeat] = sample

    @property
    def _safe(self) -> str:
        return f"{self.progress} are safe; make room, then the same command continues with the missing ones"

    @property
    def progress(self) -> str:
        """``3 of 10 samples``."""
        return (
            f"{len(self.samples)} of {len(self._expected)} samples"
            if self._expected
            else f"{len(self.samples)} of its samples"
        )

    def ordered(self) -> list[Sample]:
        """Samples in (doc_id, repeat) order."""
        return [self.samples[key] for key in sorted(self.samples)]

    def save(self) -> None:
        with self._writing(self._safe):
            write_run(self.path, self.run)

    def close(self) -> None:
        """Release the lock and the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.free()
