"""Grading outside a run: of files made elsewhere (`bench grade`) and of stored samples again (`bench
score`).
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records.files import content_of
from harness.records.outside import brief, parse_json, read_json
from harness.runs.suite import Grade
from harness.sandbox import Jail, open_jail
from suites.code import pass_at_k
from suites.suite import Suite

Line = dict[str, Any]
AHEAD = 8


class GradingError(UserError, ValueError):
    """A file of answers that cannot be graded, with the line at fault."""


@dataclass(frozen=True)
class Tally:
    """What a set of graded answers amounts to.

    graded: answers with a verdict. correct: of these. gradings: number of answers by grading. documents:
    distinct documents. pass_at: unbiased pass@k by k, mean over the documents, for every k that all documents
    have samples for.
    """

    graded: int
    correct: int
    documents: int
    gradings: dict[str, int]
    pass_at: dict[int, float]


def read_lines(path: Path) -> list[Line]:
    """The JSON objects of a file, one per line. Raises GradingError with the number of a line that is
    none.
    """
    try:
        texts = content_of(path).split(b"\n")  # a string in JSON may hold the other ends of lines
    except OSError as error:
        raise GradingError(f"cannot read {path}: {error.strerror}") from None
    lines = [
        parse_json(text, f"{path}, line {number}", GradingError)
        for number, text in enumerate(texts, 1)
        if text.strip()
    ]
    if not lines:
        raise GradingError(f"{path} has no lines to grade")
    return lines


def grade_each(
    suite: Suite, lines: Sequence[Line], jail: Jail | None = None, stored: bool = False
) -> Iterator[Grade]:
    """Grade lines with `doc_id` and `program` or `text`: each grade in the order of the lines, as soon as it
    is known.

    stored: the lines are samples of a run, whose text is already cut; otherwise a text is cut at the suite's
    stop strings first. Raises GradingError, before anything is graded, for a line without a known doc_id, or
    without anything to grade.
    """
    documents = dict(suite.docs())
    jobs = [_job(suite, documents, line, number, stored) for number, line in enumerate(lines, 1)]
    return (job(jail) for job in jobs) if not suite.needs_code else _several(jobs, jail)


def _several(jobs: Sequence[Callable[[Jail | None], Grade]], jail: Jail | None) -> Iterator[Grade]:
    workers = jail.workers if jail else 2
    waiting: deque[Future[Grade]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for job in jobs:
            waiting.append(pool.submit(job, jail))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def grade_lines(
    suite: Suite, lines: Sequence[Line], jail: Jail | None = None, stored: bool = False
) -> list[Grade]:
    """The same as one list."""
    return list(grade_each(suite, lines, jail, stored))


def _job(
    suite: Suite, documents: dict[int, Line], line: Line, number: int, stored: bool
) -> Callable[[Jail | None], Grade]:
    doc_id, text, program = line.get("doc_id"), line.get("text"), line.get("program")
    if not isinstance(doc_id, int) or doc_id not in documents:
        last = len(documents) - 1
        raise GradingError(
            f"line {number}: doc_id {brief(doc_id)} is not one of the documents 0 to {last} of {suite.name}"
        )
    document = documents[doc_id]
    if isinstance(program, str) and suite.needs_code and not (stored and isinstance(text, str)):
        return lambda jail: suite.grade_program(document, program, jail)
    if isinstance(text, str):
        answer = text if stored else suite.cut(text)
        return lambda jail: suite.grade(document, answer, jail)
    if stored:
        return lambda jail: Grade(None, "not_run", detail="the sample has no text")
    wanted = '"program" or "text"' if suite.needs_code else '"text"'
    raise GradingError(f"line {number}: needs {wanted}")


def score(doc_ids: Iterable[int], grades: Sequence[Grade]) -> Tally:
    """Sum up graded answers; several answers of one document count as samples for pass@k."""
    samples: dict[int, list[bool]] = {}
    for doc_id, grade in zip(doc_ids, grades, strict=True):
        if grade.correct is not None:
            samples.setdefault(doc_id, []).append(grade.correct)
    fewest = min((len(item) for item in samples.values()), default=0)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 100) if k <= fewest]
    rates = {
        k: sum(pass_at_k(len(item), sum(item), k) for item in samples.values()) / len(samples) for k in ks
    }
    graded = [item for document in samples.values() for item in document]
    return Tally(
        len(graded), sum(graded), len(samples), dict(Counter(grade.grading for grade in grades)), rates
    )


def grade_file(suite: Suite, path: Path, output: Path | None = None, allow_unsafe: bool = False) -> Tally:
    """Grade a JSONL file made elsewhere; `output` repeats doc_id with grading, correct, program or answer,
    and detail.

    Each line of `output` is written when its grade is known, so that whatever ends the work, the grades so
    far are there. Raises GradingError for a bad file, JailError when programs cannot be isolated.
    """
    lines = read_lines(path)
    if output is not None and output.exists() and output.samefile(path):
        raise GradingError(f"--output {output} is the file to grade; name another one")
    grades: list[Grade] = []
    with ExitStack() as stack:
        jail = stack.enter_context(open_jail(allow_unsafe=allow_unsafe)) if suite.needs_code else None
        found = grade_each(suite, lines, jail)
        file = stack.enter_context(output.open("w", encoding="utf-8")) if output is not None else None
        for line, grade in zip(lines, found, strict=True):
            if file is not None:
                file.write(json.dumps(_graded(line, grade)) + "\n")
                file.flush()
            grades.append(Grade(grade.correct, grade.grading))
    return score([line["doc_id"] for line in lines], grades)


def _graded(line: Line, grade: Grade) -> Line:
    result: Line = {"doc_id": line["doc_id"], "grading": grade.grading, "correct": grade.correct}
    for name in ("program", "answer", "detail"):
        value = getattr(grade, name)
        if value:
            result[name] = value
    return result


def score_run(
    folder: Path, suite: Suite, allow_unsafe: bool = False
) -> tuple[Tally, list[tuple[Line, Grade]]]:
    """Grade a run's stored samples again, without decoding: the new score, and the samples whose verdict
    changed.

    Nothing is written. Raises GradingError when the folder has no samples.
    """
    lines = read_lines(folder / "samples.jsonl")
    with ExitStack() as stack:
        jail = stack.enter_context(open_jail(allow_unsafe=allow_unsafe)) if suite.needs_code else None
        grades = grade_lines(suite, lines, jail, stored=True)
    changed = [
        (line, grade)
        for line, grade in zip(lines, grades, strict=True)
        if line.get("correct") != grade.correct
    ]
    return score([line["doc_id"] for line in lines], grades), changed


def run_suite_name(folder: Path) -> str:
    """The suite a run folder belongs to, from its run.json. Raises GradingError when it does not say."""
    if not (folder / "run.json").exists():
        raise GradingError(f"{folder} is not a run folder: it has no run.json")
    record = read_json(folder / "run.json", GradingError)
    plan = record.get("plan")
    name = (plan.get("suite") if isinstance(plan, dict) else None) or record.get("suite")
    if not isinstance(name, str):
        raise GradingError(f"{folder / 'run.json'} does not name its suite")
    return name
