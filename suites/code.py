"""Scoring of the suites whose answers are programs: which check a document asks for, and the score lm-eval reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from harness.sandbox import Check, Jail, Verdict
from harness.sandbox.shared import shared_jail
from suites.extract import completion_program

Doc = dict[str, Any]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct, from `correct` of `samples` (Chen et al. 2021, equation 1).

    Raises ValueError when k exceeds the number of samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples and 0..{samples} correct ones, got {correct} of {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


class CodeScorer:
    """lm-eval's `process_results` of a code suite, and the same grading for `Suite.grade`.

    metric: name of the score. build: the check of one program, from the document. ks: the k of pass@k.
    """

    def __init__(self, name: str, metric: str, build: Callable[[Doc, str], Check], numpy: bool = False, ks: Sequence[int] = (1,)) -> None:
        self.name, self.metric, self.build, self.numpy, self.ks = name, metric, build, numpy, tuple(ks)

    def __repr__(self) -> str:
        return f"suites.code.{self.name}"

    def verdict(self, doc: Doc, program: str, jail: Jail | None = None) -> Verdict:
        """Run one program against the document's tests."""
        return (jail or shared_jail(self.numpy)).run(self.build(doc, program))

    def __call__(self, doc: Doc, results: list[Any]) -> dict[str, float]:
        """lm-eval's hook. results[0]: one program, or the list of a document's programs."""
        programs = [results[0]] if isinstance(results[0], str) else list(results[0])
        verdicts = (shared_jail(self.numpy)).run_many([self.build(doc, program) for program in programs])
        correct = sum(verdict.passed for verdict in verdicts)
        return {self._key(k): pass_at_k(len(programs), correct, k) for k in self.ks if k <= len(programs)}

    def _key(self, k: int) -> str:
        return self.metric.replace("@1", f"@{k}").replace("_1", f"_{k}")


def _humaneval_setup(doc: Doc) -> str:
    # The prompt's helpers and imports, from the prompt and not from the program, which could redefine them.
    return doc["prompt"] + "\n    pass\n"


def humaneval_check(doc: Doc, program: str) -> Check:
    """HumanEval's `check(candidate)`, run outside the program's jail."""
    tests = f"{doc['test']}\ncheck({doc['entry_point']})"
    return Check(program, (doc["entry_point"],), tests=tests, setup=_humaneval_setup(doc))


def nano_code_check(doc: Doc, program: str) -> Check:
    """The assertions of a nano-code problem: a list of statements, or the text of `check(candidate)`."""
    tests, name = doc["tests"], doc["entry_point"]
    if not isinstance(tests, str):
        tests = "\n".join(tests)
    if "def check(" in tests:
        tests = f"{tests}\ncheck({name})"
    return Check(program, (name,), tests=tests)


humaneval = CodeScorer("humaneval", "pass@1", humaneval_check, numpy=True)
nano_code = CodeScorer("nano_code", "pass@1", nano_code_check)


def _each(resps: list[list[str]], docs: list[Doc], build: Callable[[Doc, str], str]) -> list[list[str]]:
    return [[build(doc, text) for text in texts] for texts, doc in zip(resps, docs, strict=True)]


def humaneval_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: prompt + completion; see suites.extract for texts that are not completions."""
    return _each(resps, docs, lambda doc, text: completion_program(doc["prompt"], text, doc["entry_point"], doc["prompt"] + text))


def nano_code_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: prompt + completion."""
    return _each(resps, docs, lambda doc, text: doc["prompt"] + text)
