"""Finished runs made small: their samples compressed in place (xz, about a tenth), read as before by
everything that reads runs.
"""

from __future__ import annotations

from pathlib import Path

from harness.records.evidence import lacking, read_evidence
from harness.records.files import pack, packed, unpack
from harness.records.schema import read_run
from harness.records.store import Lock


def pack_run(folder: Path) -> str | None:
    """Pack the samples of one run; None: done (or packed already), else why it was left as it is.

    The run is locked and its samples are read first: RecordError for a damaged line, StoreError while another
    process writes.
    """
    lock = Lock(folder)
    try:
        run = read_run(folder)
        missing = lacking(run, len(read_evidence(folder, run)))
        if run.status != "complete" or missing is not None:
            return f"incomplete{f', {missing}' if missing else ''}: run its command again to continue"
        path = folder / "samples.jsonl"
        if path.exists():
            pack(path)
        return None if packed(path).exists() else "no samples"
    finally:
        lock.free()


def unpack_run(folder: Path) -> None:
    """Undo ``pack_run``. RecordError names a packed file that is damaged."""
    lock = Lock(folder)
    try:
        read_evidence(folder, read_run(folder))
        unpack(folder / "samples.jsonl")
    finally:
        lock.free()
