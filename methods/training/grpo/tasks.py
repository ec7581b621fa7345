"""Training problems with a verifiable answer: drawn from the generators of the nano suites, or read from a
file.

A file holds JSON lines with ``prompt`` and either ``answer`` (mathematics) or ``tests`` (assert statements)
and ``entry_point`` (code); other keys are ignored.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UserError
from harness.records.files import digest
from harness.records.outside import parse_json, read_text
from methods.training.data.overlap import refuse_overlap
from suites.generators import code, frozen, gsm

NANO = {"nano-gsm": "gsm", "nano-code": "code"}


class TaskError(UserError, ValueError):
    """Problems that cannot, or must not, be trained on."""


@dataclass(frozen=True)
class Problem:
    """One problem. ``answer`` for mathematics; ``tests`` and ``entry_point`` for code."""

    prompt: str
    answer: str = ""
    tests: tuple[str, ...] = ()
    entry_point: str = ""

    @property
    def uid(self) -> str:
        """sha256 of the problem, 12 digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


class TaskSource(Protocol):
    @property
    def code(self) -> bool:
        """Whether programs have to be run to grade answers."""
        ...

    def draw(self, step: int, count: int, extra: int = 0) -> list[Problem]:
        """The problems of a step, or of its further round ``extra`` > 0: a function of seed, step and round
        alone.
        """
        ...


class GeneratedTasks:
    """Problems of a nano suite's training split; no key is ever one of the frozen validation or test sets."""

    def __init__(self, suite: str, seed: int) -> None:
        self.kind, self.seed = NANO[suite], seed
        self.code = self.kind == "code"
        self.held_out = {
            row["key"] for split in ("validation", "test") for row in frozen.load(self.kind, split)
        }

    def draw(self, step: int, count: int, extra: int = 0) -> list[Problem]:
        """``count`` problems with distinct keys; TaskError if the generator ever gives one of a held-out
        set.
        """
        rng = random.Random(f"{self.seed}/{self.kind}/{step}" + (f"/{extra}" if extra else ""))
        found: dict[str, Problem] = {}
        while len(found) < count:
            item = gsm.generate(rng, "train") if self.kind == "gsm" else code.generate(rng, "train")
            if item.key in self.held_out:
                raise TaskError(
                    f"the training problem {item.key!r} is one of the held-out problems of this suite"
                )
            found.setdefault(item.key, _generated(item))
        return list(found.values())


def _generated(item: gsm.GsmItem | code.CodeItem) -> Problem:
    if isinstance(item, gsm.GsmItem):
        return Problem(item.prompt, answer=item.answer)
    return Problem(item.prompt, tests=item.tests, entry_point=item.entry_point)


class FileTasks:
    """Problems of a file, shuffled anew in every epoch."""

    def __init__(self, tasks: Sequence[Problem], seed: int) -> None:
        self.tasks, self.seed = tasks, seed
        self.code = any(task.tests for task in tasks)

    def draw(self, step: int, count: int, extra: int = 0) -> list[Problem]:
        """The next ``count`` problems of the epoch, going over into the next one; of a further round, any."""
        if extra:
            return random.Random(f"{self.seed}/{step}/{extra}").choices(self.tasks, k=count)
        return [self._at(place) for place in range(step * count, (step + 1) * count)]

    def _at(self, place: int) -> Problem:
        epoch, index = divmod(place, len(self.tasks))
        order = list(range(len(self.tasks)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return self.tasks[order[index]]


def read_tasks(path: Path) -> list[Problem]:
    """The problems of a file; TaskError names the line that is none."""
    if not path.exists():
        raise TaskError(f"--suite {path}: no such file; give nano-gsm, nano-code or a file of JSON lines")
    lines = read_text(path, TaskError, "give nano-gsm, nano-code or a file of JSON lines").split("\n")
    tasks = [_task(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not tasks:
        raise TaskError(f"--suite {path} holds no problems")
    return tasks


def _task(path: Path, number: int, line: str) -> Problem:
    row: dict[str, Any] = parse_json(line, f"{path} line {number}", TaskError)
    prompt, tests, entry = row.get("prompt"), row.get("tests", []), row.get("entry_point", "")
    texts = isinstance(tests, list) and all(isinstance(test, str) for test in tests)
    if not isinstance(prompt, str) or not isinstance(entry, str) or not texts:
        raise TaskError(
            f"{path} line {number} is no problem with a prompt, or its tests are no list of texts"
        )
    task = Problem(prompt, str(row.get("answer", "")), tuple(tests), entry)
    if bool(task.answer) == bool(task.tests) or bool(task.tests) != bool(task.entry_point):
        raise TaskError(
            f"{path} line {number} needs either an answer, or tests (a list of assert statements) and an "
            "entry_point"
        )
    return task


def load_tasks(suite: str, seed: int, data_dir: str | None = None) -> TaskSource:
    """The problems that ``suite`` names: nano-gsm, nano-code or a file.

    Raises TaskError for an evaluation suite, OverlapError for a file that shares a problem with one.
    """
    from suites.suite import list_suites

    if suite in NANO:
        return GeneratedTasks(suite, seed)
    if suite in list_suites():
        raise TaskError(
            f"{suite} is a test suite: training on it is refused. Give nano-gsm, nano-code or a file of "
            "training problems"
        )
    tasks = read_tasks(Path(suite))
    told = digest([task.prompt for task in tasks])
    refuse_overlap(lambda: [task.prompt for task in tasks], Path(suite), told, data_dir)
    return FileTasks(tasks, seed)
