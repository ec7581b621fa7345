"""Which training prompts contain a problem of an evaluation suite, by hashes of normalised words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import UserError
from suites.sources import DATA_VARIABLE, SuiteDataError
from suites.suite import list_suites, load_suite

# Where the suites keep the text of a problem.
TEXT_FIELDS = ("prompt", "question", "problem", "text")
WINDOW = 8


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


def refuse_overlap(prompts: Sequence[str], source: Path, data_dir: str | None = None) -> list[str]:
    """OverlapError if a prompt of the file ``source`` contains a problem of a suite.

    Returns the suites that the prompts could not be compared with, because their data cannot be had here, and
    says so.
    """
    found, unchecked = overlapping(prompts, data_dir)
    if found:
        first = found[0]
        text = (
            f"{len(found)} of {len(prompts)} problems of {source} are in a test suite, first problem "
            f"{first.index + 1}"
        )
        raise OverlapError(
            f"{text} = {first.suite} document {first.doc_id}: training on a test suite is refused; take "
            "them out"
        )
    if unchecked:
        print(
            f"{source.name} not compared with {', '.join(unchecked)}: their data are not here, name a folder "
            "by BENCH_DATA",
            flush=True,
        )
    return unchecked


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
