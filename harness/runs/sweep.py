"""Sweeps: methods x settings x suites x batch sizes, one process per cell, resumable.

Every cell is a ``bench run`` of its own, so a crash ends one cell and is recorded, and a killed sweep
continues: finished cells are skipped by the state file, the interrupted one by the run store with exactly its
missing samples.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.decoding.settings import setting_text
from harness.errors import UserError
from harness.records.files import LineFile, whole_lines
from harness.records.outside import one_line, parse_json, read_yaml, reason

CellStatus = Literal["complete", "refused", "crashed", "timeout"]
MOST_CELLS = 100_000
"""A sweep of more is a slip of a list: at a second per cell it takes more than a day."""
Scalar = str | int | float | bool | None


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
    templates: list[str] = Field(default=["default"], min_length=1)
    num_fewshot: list[int | None] = Field(default=[None], min_length=1)
    fewshot_seeds: list[int] = Field(
        default=[1234], min_length=1, description="for the numbers of examples that are not null or 0"
    )
    apply_chat_template: bool = False
    preset: str | None = None
    batch_sizes: list[int] = [1]
    limit: int | None = None
    repeats: int = 1
    seed: int = 0
    threads: int | None = Field(
        default=1,
        description="CPU threads of each cell; part of a run's plan, so fixed here and not by --workers",
    )
    device: str | None = None
    dtype: str = "auto"
    adapter: str | None = None
    family: str | None = None
    stop_rule: Literal["harness", "reference"] = "harness"
    protocol: str | None = None
    wandb: bool = False
    timeout_s: float | None = Field(default=None, gt=0, description="longest time of one cell")


@dataclass(frozen=True)
class Job:
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


_OUTCOME = TypeAdapter(Outcome)


def read_sweep(path: Path) -> Sweep:
    """SweepError names the key that is wrong."""
    if not path.exists():
        raise SweepError(f"cannot read FILE {path}: there is no such file")
    told = read_yaml(path, SweepError, "see suites/sweeps for examples")
    try:
        sweep = Sweep.model_validate({} if told is None else told)
    except ValidationError as error:
        raise SweepError(f"{path}: {one_line(_fault(error))}") from None
    if (count := number_of_cells(sweep)) > MOST_CELLS:
        raise SweepError(
            f"{path} makes {count:,} cells, and at most {MOST_CELLS:,} are run: shorten the longest lists of "
            "settings, suites, batch_sizes or seeds"
        )
    return sweep


def _fault(error: ValidationError) -> str:
    """The first fault with its key; an unknown key before one that is missing for it."""
    faults = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key, fault = ".".join(map(str, faults[0]["loc"])) or "file", faults[0]
    if fault["type"] != "extra_forbidden":
        return f"{key}: {fault['msg']}"
    known = MethodGrid.model_fields if fault["loc"][0] == "methods" else Sweep.model_fields
    close = difflib.get_close_matches(str(fault["loc"][-1]), known, 1)
    return f"unknown key {key}: " + (
        f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    )


def number_of_cells(sweep: Sweep) -> int:
    """How many cells a sweep has, without making one."""
    shots = sum(len(sweep.fewshot_seeds) if number else 1 for number in sweep.num_fewshot)
    grids = sum(
        prod(len(value) if isinstance(value, list) else 1 for value in grid.settings.values())
        for grid in sweep.methods
    )
    return len(sweep.suites) * len(sweep.templates) * shots * len(sweep.batch_sizes) * grids


def cells(sweep: Sweep, output: Path) -> list[Job]:
    """All cells in a fixed order: suite by suite, batch size by batch size. SweepError if two are the
    same.
    """
    found = []
    for suite, prompt, batch, grid in product(
        sweep.suites, _prompts(sweep), sweep.batch_sizes, sweep.methods
    ):
        for settings in _combinations(grid.settings):
            text = ", ".join(setting_text(key, value) for key, value in settings.items())
            label = f"{suite} {grid.method}{f' ({text})' if text else ''}" + (
                f" batch {batch}" if batch != 1 else ""
            )
            label += "".join(f" {flag.removeprefix('--')} {value}" for flag, value in prompt.items())
            found.append(
                Job(label, tuple(_arguments(sweep, suite, prompt, batch, grid.method, settings, output)))
            )
    if len({cell.key for cell in found}) != len(found):
        raise SweepError(
            "the sweep names one cell twice: remove the repeated method, setting, suite or batch size"
        )
    return found


def _prompts(sweep: Sweep) -> Iterator[dict[str, str]]:
    """The flags of every way to write the prompts; a seed changes nothing where no example is drawn by it."""
    for template, shots in product(sweep.templates, sweep.num_fewshot):
        flags = {"--template": template} if template != "default" else {}
        flags |= {"--num_fewshot": str(shots)} if shots is not None else {}
        for seed in sweep.fewshot_seeds if shots else [None]:
            yield {**flags, "--fewshot_seed": str(seed)} if seed is not None else flags


def _combinations(settings: dict[str, Scalar | list[Scalar]]) -> Iterator[dict[str, str]]:
    choices = [value if isinstance(value, list) else [value] for value in settings.values()]
    for values in product(*choices):
        yield {key: _plain(value) for key, value in zip(settings, values, strict=True)}


def _plain(value: Scalar) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(
    sweep: Sweep,
    suite: str,
    prompt: dict[str, str],
    batch: int,
    method: str,
    settings: dict[str, str],
    output: Path,
) -> Iterator[str]:
    yield from (
        "run",
        "--model",
        sweep.model,
        "--method",
        method,
        "--suite",
        suite,
        "--batch_size",
        str(batch),
    )
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
        "--family": sweep.family,
        "--preset": sweep.preset,
        "--stop-rule": sweep.stop_rule,
        "--protocol": sweep.protocol,
    }
    for flag, value in options.items():
        if value is not None:
            yield from (flag, str(value))
    for pair in prompt.items():
        yield from pair
    yield from (
        flag
        for flag, wanted in {
            "--apply_chat_template": sweep.apply_chat_template,
            "--wandb": sweep.wandb,
        }.items()
        if wanted
    )
    yield from ("--output_path", str(output))


class State:
    """Outcomes by cell, one JSON line each in ``<output>/sweep.jsonl``, forced to the disk as they come; the
    last line of a cell counts.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / "sweep.jsonl"
        self.outcomes: dict[str, Outcome] = {}
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._file = LineFile(self.path)
        except OSError as error:
            raise SweepError(
                f"cannot write to {output} ({error.strerror}): choose another folder with --output_path"
            ) from None
        for number, line in whole_lines(self.path):
            self._keep(line, number)

    def _keep(self, line: bytes, number: int) -> None:
        where, advice = f"{self.path} line {number}", "remove that line to run its cell again"
        try:
            outcome = _OUTCOME.validate_python(parse_json(line, where, SweepError, advice=advice))
        except ValidationError as error:
            raise SweepError(f"{where} is damaged ({reason(error)}): {advice}") from None
        self.outcomes[outcome.key] = outcome

    def add(self, outcome: Outcome) -> None:
        self._file.append(json.dumps(asdict(outcome)).encode())
        self.outcomes[outcome.key] = outcome

    def pending(self, wanted: Sequence[Job], retry: bool) -> list[Job]:
        """Cells without an outcome; with ``retry`` those that did not complete too."""
        return [
            cell
            for cell in wanted
            if (known := self.outcomes.get(cell.key)) is None or (retry and known.status != "complete")
        ]

    def log(self, cell: Job) -> Path:
        return self.path.parent / "sweep-logs" / f"{cell.key}.log"

    def close(self) -> None:
        self._file.close()
