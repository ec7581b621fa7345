"""The stored truth of a speed table: ``<root>/<device>/<id>/{speed.json, timings.jsonl}``.

A line is one visit to one cell: its times in one round. A killed table is continued by the same command with
exactly the missing visits. What was measured is what is stored: a shape cut to a few layers says so, and
nothing is extrapolated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from harness.records.evidence import seal_fits, sealed
from harness.records.files import LineFile, digest, whole_lines, write_atomic
from harness.records.schema import Record, RecordError
from harness.records.store import Lock, StoreError

SPEED_VERSION = 1
HEADER, LINES = "speed.json", "timings.jsonl"

Key = tuple[int, int | None, int | None, str | None, int]
"""Rows, query, cached, run id, round."""


class Replayed(Record):
    """A stored run whose windows are replayed."""

    run_id: str
    method: str
    suite: str
    changed: dict[str, Any] = Field(description="settings that differ from the method's defaults")
    model: str = Field(description="model of the stored run, whose tokens per forward these are")
    windows: str = Field(description="sha256 over the replayed windows, 16 hex digits")


class SpeedPlan(Record):
    """Everything that decides what is timed and on what; its hash is in the table's id."""

    kind: Literal["forward", "replay"]
    shape: str
    layers: int = Field(description="layers that were built")
    of_layers: int = Field(description="layers of the whole shape")
    dtype: str
    attention: str = Field(description="attention kernel asked for; each line says which ran")
    block_size: int | None = Field(description="tokens per block of block-causal attention; null: full")
    logits: int = Field(description="positions per row that get logits, at most")
    device: str = Field(description="torch device: cpu, cuda:0")
    device_name: str = Field(description="device slug, first folder of the table's path")
    threads: int | None = Field(description="CPU threads; null on a GPU")
    cores: int | None = Field(description="cores that the process may use; null: unknown")
    torch: str
    commit: str | None
    rounds: int = Field(description="visits to each cell, all cells in turn, A B B A")
    warm_up: int = Field(description="unrecorded calls at each visit")
    repeats: int = Field(description="timed calls at each visit")
    rows: list[int]
    query: list[int] = Field(default=[], description="positions fed per row")
    cached: list[int] = Field(default=[], description="stored positions per row that are attended to")
    replays: list[Replayed] = Field(default=[])
    answers: int | None = Field(default=None, description="answers replayed of each run, at least")
    prompt_tokens: int | None = Field(
        default=None, description="prompt length put in front of every replayed canvas; null: as recorded"
    )

    compiled: bool = Field(default=False, description="layers compiled (harness.model.compiled)")

    @model_serializer(mode="wrap")
    def _without_the_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``compiled`` is named only where it is set, so that the ids of tables made before it stay."""
        return {name: value for name, value in handler(self).items() if value or name != "compiled"}

    @property
    def id(self) -> str:
        cut = "" if self.layers == self.of_layers else f"-{self.layers}layers"
        kind = "" if self.kind == "forward" else "-replay"
        return f"{self.shape}{cut}-{self.dtype}{kind}-{digest(self.model_dump(mode='json'))[:8]}"

    def visits(self) -> list[Key]:
        """Every visit, round by round."""
        cells: list[tuple[int, int | None, int | None, str | None]]
        if self.kind == "forward":
            cells = [
                (rows, query, cached, None)
                for rows in self.rows
                for query in self.query
                for cached in self.cached
            ]
        else:
            cells = [(rows, None, None, run.run_id) for run in self.replays for rows in self.rows]
        return [(*cell, turn) for turn in range(self.rounds) for cell in cells]


class SpeedRun(Record):
    """``speed.json``."""

    schema_version: int = SPEED_VERSION
    id: str
    status: Literal["running", "complete"] = "running"
    created: str
    finished: str | None = None
    plan: SpeedPlan
    environment: dict[str, Any]
    roofline: dict[str, Any] = Field(
        description="measured bandwidth and matmul rate, cost of the model's forwards, as run.json has it"
    )


class Timing(Record):
    """One line of ``timings.jsonl``: one visit to one cell.

    kind forward: ``times_s`` are calls of one forward pass. kind replay: they are the forward passes of one
    batch of answers, summed; ``answers``, ``nfe`` and ``useful`` are sums over all of them.
    """

    rows: int
    query: int | None = None
    cached: int | None = None
    run_id: str | None = None
    answers: int | None = None
    nfe: int | None = Field(default=None, description="forward passes of the answers, each row's counted")
    useful: int | None = Field(default=None, description="useful tokens of the stored answers")
    round: int
    times_s: list[float] = Field(min_length=1)
    roof_s: float = Field(
        gt=0, description="least time that the hardware allows: for one call, or for the whole replay"
    )
    kernels: list[str] = Field(description="attention kernels that the visit's passes ran on")
    processor_s: float | None = Field(
        default=None,
        description="processor time of all calls in times_s together, all threads; less than their sum times "
        "threads where other work had the processor; null on a GPU",
    )
    peak_memory_bytes: int | None = None
    seal: str | None = Field(default=None, description="sha256 over the rest of the line, 16 hex digits")

    @property
    def key(self) -> Key:
        return self.rows, self.query, self.cached, self.run_id, self.round


def read_speed(folder: Path) -> tuple[SpeedRun, list[Timing]]:
    """A table's header and its lines; RecordError names the file, line and field of what does not belong."""
    path = folder / HEADER
    try:
        run = SpeedRun.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"{path} not found: not the folder of a speed table") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} is damaged ({_first(error)}); move the folder away or use --fresh"
        ) from None
    if run.id != run.plan.id:
        raise RecordError(f"{path}: id {run.id} is not that of its plan ({run.plan.id}): a value was changed")
    timings = list(_lines(folder / LINES, run))
    if run.status == "complete" and len(timings) != len(run.plan.visits()):
        raise RecordError(
            f"{folder} calls itself complete with {len(timings)} of {len(run.plan.visits())} lines; move it "
            "away or use --fresh"
        )
    return run, timings


def _lines(path: Path, run: SpeedRun) -> Iterator[Timing]:
    open_keys = set(run.plan.visits())
    for number, line in whole_lines(path):
        try:
            timing = Timing.model_validate_json(line)
        except ValidationError as error:
            raise RecordError(
                f"{path} line {number} is damaged ({_first(error)}); move the folder away or use --fresh"
            ) from None
        fault = next(_faults(run, timing, line, open_keys), None)
        if fault is not None:
            raise RecordError(
                f"{path} line {number}: {fault}; this is not what was measured: move the folder away or use "
                "--fresh"
            )
        open_keys.remove(timing.key)
        yield timing


def _faults(run: SpeedRun, timing: Timing, line: bytes, open_keys: set[Key]) -> Iterator[str]:
    if timing.key not in open_keys:
        yield f"rows, query, cached, run and round {timing.key} are not the plan's, or are there already"
    if run.plan.kind == "forward" and len(timing.times_s) != run.plan.repeats:
        yield f"times_s has {len(timing.times_s)} entries, repeats is {run.plan.repeats}"
    if min(timing.times_s) <= 0:
        yield f"times_s holds {min(timing.times_s)}"
    if run.plan.kind == "replay" and not (timing.answers and timing.nfe and timing.useful is not None):
        yield "answers, nfe or useful is missing"
    if timing.seal is None or not seal_fits(line, timing.seal):
        yield "seal does not fit the line: a value was changed"


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc'])) or 'file'}: {detail['msg']}"
    return str(error)


def find_tables(root: Path) -> list[Path]:
    """Folders of speed tables below ``root`` (or ``root`` itself), sorted by path."""
    return sorted(path.parent for path in root.rglob(HEADER))


class SpeedFolder:
    """One table on disk, locked against a second writer while open."""

    def __init__(self, root: Path, run: SpeedRun, fresh: bool) -> None:
        self.path = root / run.plan.device_name / run.id
        self._file: LineFile | None = None
        try:
            self._lock = Lock(self.path)
        except OSError as error:
            raise self._cannot(error) from None
        try:
            self.path.mkdir(exist_ok=True)
            if fresh:
                for name in (LINES, HEADER):
                    (self.path / name).unlink(missing_ok=True)
            self.run, timings = read_speed(self.path) if (self.path / HEADER).exists() else (run, [])
            self.timings = {timing.key: timing for timing in timings}
            self.save()
        except OSError as error:
            self._lock.free()
            raise self._cannot(error) from None
        except BaseException:
            self._lock.free()
            raise

    def _cannot(self, error: OSError) -> StoreError:
        if isinstance(error, StoreError):
            return error
        return StoreError(
            f"cannot write to {self.path} ({error.strerror}): choose another folder with --output_path"
        )

    def missing(self) -> list[Key]:
        return [key for key in self.run.plan.visits() if key not in self.timings]

    def append(self, timing: Timing) -> None:
        """Write one line and force it to the disk."""
        if self._file is None:
            self._file = LineFile(self.path / LINES)
        self._file.append(sealed(timing))
        self.timings[timing.key] = timing

    def rewrite(self, timings: Sequence[Timing]) -> None:
        """Replace all lines: their roofs are lower since the device was measured again."""
        if self._file is not None:
            self._file.close()
            self._file = None
        write_atomic(self.path / LINES, b"".join(sealed(timing) + b"\n" for timing in timings))
        self.timings = {timing.key: timing for timing in timings}

    def save(self) -> None:
        text = json.dumps(self.run.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomic(self.path / HEADER, text + "\n")

    def close(self) -> None:
        """Release the lock and the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.free()
