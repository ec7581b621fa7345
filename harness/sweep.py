"""Sweeps: methods x settings x suites x batch sizes, one process per cell, resumable.

Every cell is a ``bench run`` of its own, so a crash ends one cell and is recorded, and a killed sweep continues: finished cells are
skipped by the state file, the interrupted one by the run store with exactly its missing samples.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError

CellStatus = Literal["complete", "refused", "crashed", "timeout"]
Scalar = str | int | float | bool | None
POLL_S = 0.1


class SweepError(UserError, ValueError):
    """A sweep file or state that cannot be used, with the key to change."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MethodGrid(_Part):
    """One method; a setting with a list of values takes each of them, several lists make a grid."""

    method: str
    settings: dict[str, Scalar | list[Scalar]] = {}


class Sweep(_Part):
    """A sweep file."""

    model: str = "nano"
    methods: list[MethodGrid] = Field(min_length=1)
    suites: list[str] = Field(min_length=1)
    batch_sizes: list[int] = [1]
    limit: int | None = None
    repeats: int = 1
    seed: int = 0
    threads: int | None = Field(default=1, description="CPU threads of each cell; part of a run's plan, so fixed here and not by --workers")
    device: str | None = None
    dtype: str = "auto"
    adapter: str | None = None
    stop_rule: Literal["harness", "reference"] = "harness"
    protocol: str | None = None
    timeout_s: float | None = Field(default=None, gt=0, description="longest time of one cell")


@dataclass(frozen=True)
class Cell:
    """One ``bench run``: its label and arguments. ``key`` names it in the state file."""

    label: str
    arguments: tuple[str, ...]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.arguments).encode()).hexdigest()[:12]

    @property
    def command(self) -> str:
        """As run.json stores it."""
        return shlex.join(["bench", *self.arguments])


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``error`` is the last line it printed."""

    key: str
    label: str
    status: CellStatus
    returncode: int | None
    seconds: float
    error: str = ""


def read_sweep(path: Path) -> Sweep:
    """SweepError names the key that is wrong."""
    try:
        return Sweep.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise SweepError(f"cannot read FILE {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} is no valid YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SweepError(f"{path}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from None


def cells(sweep: Sweep, output: Path) -> list[Cell]:
    """All cells in a fixed order: suite by suite, batch size by batch size. SweepError if two are the same."""
    found = []
    for suite, batch, grid in product(sweep.suites, sweep.batch_sizes, sweep.methods):
        for settings in _combinations(grid.settings):
            text = ", ".join(f"{key}={value}" for key, value in settings.items())
            label = f"{suite} {grid.method}{f' ({text})' if text else ''}" + (f" batch {batch}" if batch != 1 else "")
            found.append(Cell(label, tuple(_arguments(sweep, suite, batch, grid.method, settings, output))))
    if len({cell.key for cell in found}) != len(found):
        raise SweepError("the sweep names one cell twice: remove the repeated method, setting, suite or batch size")
    return found


def _combinations(settings: dict[str, Scalar | list[Scalar]]) -> Iterator[dict[str, str]]:
    choices = [value if isinstance(value, list) else [value] for value in settings.values()]
    for values in product(*choices):
        yield {key: _plain(value) for key, value in zip(settings, values, strict=True)}


def _plain(value: Scalar) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(sweep: Sweep, suite: str, batch: int, method: str, settings: dict[str, str], output: Path) -> Iterator[str]:
    yield from ("run", "--model", sweep.model, "--method", method, "--suite", suite, "--batch_size", str(batch))
    for key, value in settings.items():
        yield from ("--set", f"{key}={value}")
    options = {
        "--limit": sweep.limit,
        "--repeats": sweep.repeats,
        "--seed": sweep.seed,
        "--threads": sweep.threads,
        "--device": sweep.device,
        "--dtype": sweep.dtype,
        "--adapter": sweep.adapter,
        "--stop-rule": sweep.stop_rule,
        "--protocol": sweep.protocol,
    }
    for flag, value in options.items():
        if value is not None:
            yield from (flag, str(value))
    yield from ("--output_path", str(output))


class State:
    """Outcomes by cell, one JSON line each in ``<output>/sweep.jsonl``, forced to the disk as they come; the last line of a cell counts."""

    def __init__(self, output: Path) -> None:
        self.path = output / "sweep.jsonl"
        self.outcomes: dict[str, Outcome] = {}
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise SweepError(f"cannot write to {output} ({error.strerror}): choose another folder with --output_path") from None
        data = self.path.read_bytes()
        # A kill while writing leaves a torn last line; the cell behind it simply runs again.
        self._file.truncate(data.rfind(b"\n") + 1)
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            if line.endswith(b"\n") and line.strip():
                self._keep(line, number)

    def _keep(self, line: bytes, number: int) -> None:
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            raise SweepError(f"{self.path} line {number} is damaged: remove that line to run its cell again") from None
        self.outcomes[outcome.key] = outcome

    def add(self, outcome: Outcome) -> None:
        self._file.write(json.dumps(asdict(outcome)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.outcomes[outcome.key] = outcome

    def pending(self, wanted: Sequence[Cell], retry: bool) -> list[Cell]:
        """Cells without an outcome; with ``retry`` those that did not complete too."""
        return [cell for cell in wanted if (known := self.outcomes.get(cell.key)) is None or (retry and known.status != "complete")]

    def log(self, cell: Cell) -> Path:
        return self.path.parent / "sweep-logs" / f"{cell.key}.log"

    def close(self) -> None:
        self._file.close()


def child() -> None:
    """Entry point of a cell's process: dies with the sweep that started it, then behaves as ``bench``."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux only
    if parent and os.getppid() != parent:
        sys.exit(1)
    sys.argv = ["bench", *arguments]
    from harness.cli import main

    main()


class Process:
    """A running cell; its output goes to ``log``."""

    def __init__(self, cell: Cell, log: Path, gpu: str | None, timeout_s: float | None) -> None:
        self.cell, self.log, self.timeout_s = cell, log, timeout_s
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        command = [sys.executable, "-c", "from harness.sweep import child; child()", str(os.getpid()), *cell.arguments]
        with log.open("wb") as file:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def poll(self) -> Outcome | None:
        """The outcome once the process has ended (or has had its time)."""
        seconds = time.monotonic() - self.started
        code = self.popen.poll()
        late = code is None and self.timeout_s is not None and seconds > self.timeout_s
        if late:
            self.kill()
        elif code is None:
            return None
        status: CellStatus = "timeout" if late else "complete" if code == 0 else "refused" if code == 2 else "crashed"
        error = "" if status == "complete" else self._last_line()
        return Outcome(self.cell.key, self.cell.label, status, code, round(seconds, 2), error)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def _last_line(self) -> str:
        return self.log.read_text(errors="replace").strip().split("\n")[-1].strip()[:300] or "no output"


Watcher = Callable[[Cell, Outcome | None], None]


def run_local(pending: Sequence[Cell], state: State, workers: int, gpus: Sequence[str], timeout_s: float | None, watch: Watcher) -> None:
    """Run cells in up to ``workers`` processes, slot k on GPU k; ``watch(cell, None)`` at its start and with its outcome at its end."""
    waiting, running = list(pending), dict[int, Process]()
    try:
        while waiting or running:
            for slot in range(workers):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = Process(cell, state.log(cell), gpus[slot % len(gpus)] if gpus else None, timeout_s)
                    watch(cell, None)
            time.sleep(POLL_S)
            for slot, process in list(running.items()):
                outcome = process.poll()
                if outcome is not None:
                    del running[slot]
                    state.add(outcome)
                    watch(process.cell, outcome)
    finally:
        for process in running.values():
            process.kill()


def run_ray(pending: Sequence[Cell], state: State, workers: int, use_gpu: bool, timeout_s: float | None, watch: Watcher) -> None:
    """The same cells through Ray with up to ``workers`` at a time; Ray gives each task a GPU of its own if ``use_gpu``."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SweepError("--ray needs Ray: pip install 'dllm-bench[train]', or leave --ray out and use --workers") from None
    ray.init(num_cpus=None if use_gpu else workers, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        task = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0, max_retries=0)(_to_the_end)
        futures = {task.remote(cell, str(state.log(cell).resolve()), timeout_s, os.getcwd()): cell for cell in pending}
        for cell in futures.values():
            watch(cell, None)
        while futures:
            done, _ = ray.wait(list(futures))
            for future in done:
                cell = futures.pop(future)
                try:
                    outcome = ray.get(future)
                except ray.exceptions.RayError as error:
                    outcome = Outcome(cell.key, cell.label, "crashed", None, 0.0, str(error).splitlines()[0])
                state.add(outcome)
                watch(cell, outcome)
    finally:
        ray.shutdown()


def _to_the_end(cell: Cell, log: str, timeout_s: float | None, folder: str) -> Outcome:
    os.chdir(folder)
    process = Process(cell, Path(log), None, timeout_s)
    while (outcome := process.poll()) is None:
        time.sleep(POLL_S)
    return outcome
