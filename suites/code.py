"""Scoring of the suites whose answers are programs: which check a document asks for, and the score lm-eval
reports.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from harness.sandbox import Check, Jail, Judgement, Limits
from harness.sandbox.shared import shared_jail
from suites.extract import completion_program, whole_program
from suites.plus import PLUS_SLOW, plus_problem

Doc = dict[str, Any]
# The memory is what EvalPlus allows; some outputs are lists of a million numbers.
PLUS = Limits(seconds=60.0, cpu_seconds=10.0, memory_mb=4096, output_kb=64 << 10)
SLOW = replace(PLUS, seconds=600.0, cpu_seconds=120.0)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct, from `correct` of `samples` (Chen et
    al. 2021, equation 1).

    Raises ValueError when k exceeds the number of samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@{k} needs at least {k} samples and 0..{samples} correct ones, got {correct} of {samples}"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


@dataclass(frozen=True)
class CodeScorer:
    """lm-eval's `process_results` of a code suite, and the same grading for `Suite.grade`.

    name: where lm-eval finds it. metric: name of the score. build: the check of one program, from the
    document. limits: of each check. numpy: whether programs may import numpy, as they can where stock lm-eval
    runs them. ks: the k of pass@k.
    """

    name: str
    metric: str
    build: Callable[[Doc, str], Check]
    limits: Limits = field(default_factory=Limits)
    numpy: bool = True
    ks: tuple[int, ...] = (1,)

    def __repr__(self) -> str:
        return f"suites.code.{self.name}"

    def verdict(self, doc: Doc, program: str, jail: Jail | None = None) -> Judgement:
        """Run one program against the document's tests."""
        if not program.strip():
            return Judgement("failed", "no program")
        check = self.build(doc, program)
        return (jail or shared_jail()).run(
            replace(check, limits=check.limits or self.limits, numpy=self.numpy)
        )

    def __call__(self, doc: Doc, results: list[Any]) -> dict[str, float]:
        """lm-eval's hook. results[0]: one program, or the list of a document's programs."""
        programs = [results[0]] if isinstance(results[0], str) else list(results[0])
        correct = sum(self.verdict(doc, program).passed for program in programs)
        return {self._key(k): pass_at_k(len(programs), correct, k) for k in self.ks if k <= len(programs)}

    def _key(self, k: int) -> str:
        return self.metric[:-1] + str(k)


def humaneval_check(doc: Doc, program: str) -> Check:
    """HumanEval's `check(candidate)`, run outside the program's jail; helpers come from the prompt, which the
    program cannot redefine.
    """
    tests = f"{doc['test']}\ncheck({doc['entry_point']})"
    return Check(program, (doc["entry_point"],), tests=tests, setup=doc["prompt"] + "\n    pass\n")


def humaneval_plus_check(doc: Doc, program: str) -> Check:
    """HumanEval+ as EvalPlus grades it."""
    name = doc["entry_point"]
    return Check(
        program, (name,), cases=plus_problem(doc["test"], name), limits=SLOW if name in PLUS_SLOW else None
    )


def mbpp_names(doc: Doc) -> tuple[str, ...]:
    """What the reference solution defines and the assertions use: the functions to take from the program,
    even if named like a builtin.
    """
    used = {
        part.id
        for line in doc["test_list"]
        for part in ast.walk(ast.parse(line))
        if isinstance(part, ast.Name)
    }
    defined = [getattr(node, "name", "") for node in ast.parse(doc["code"]).body]
    return tuple(dict.fromkeys(name for name in defined if name in used))


def mbpp_check(doc: Doc, program: str) -> Check:
    """MBPP's three assertions, with the set-up code that the stock task leaves out (problem 367 builds trees
    of the program's class).
    """
    return Check(
        program, mbpp_names(doc), tests="\n".join(doc["test_list"]), fixtures=doc.get("test_setup_code") or ""
    )


def mbpp_plus_check(doc: Doc, program: str) -> Check:
    """MBPP+ as EvalPlus grades it: its own inputs and outputs, which the stock task never runs."""
    name = mbpp_names(doc)[0]
    return Check(
        program, (name,), cases=plus_problem(doc["test"], name), limits=SLOW if name in PLUS_SLOW else None
    )


def nano_code_check(doc: Doc, program: str) -> Check:
    """The assertions of a nano-code problem: a list of statements, or the text of `check(candidate)`."""
    tests, name = doc["tests"], doc["entry_point"]
    if not isinstance(tests, str):
        tests = "\n".join(tests)
    if "def check(" in tests:
        tests = f"{tests}\ncheck({name})"
    return Check(program, (name,), tests=tests)


humaneval = CodeScorer("humaneval", "pass@1", humaneval_check)
humaneval_plus = CodeScorer("humaneval_plus", "pass@1", humaneval_plus_check, PLUS)
mbpp = CodeScorer("mbpp", "pass_at_1", mbpp_check)
mbpp_plus = CodeScorer("mbpp_plus", "pass_at_1", mbpp_plus_check, PLUS)
nano_code = CodeScorer("nano_code", "pass@1", nano_code_check, numpy=False)


def _each(resps: list[list[str]], docs: list[Doc], build: Callable[[Doc, str], str]) -> list[list[str]]:
    return [[build(doc, text) for text in texts] for texts, doc in zip(resps, docs, strict=True)]


def humaneval_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: prompt + completion; see suites.extract for texts that are not completions."""
    return _each(
        resps,
        docs,
        lambda doc, text: completion_program(doc["prompt"], text, doc["entry_point"], doc["prompt"] + text),
    )


def humaneval_instruct_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: prompt + text before the first closing fence, as the stock task does."""

    def build(doc: Doc, text: str) -> str:
        return completion_program(
            doc["prompt"], text, doc["entry_point"], doc["prompt"] + text.split("```", 1)[0]
        )

    return _each(resps, docs, build)


def mbpp_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: the text itself, or the code block in it."""
    return _each(resps, docs, lambda doc, text: whole_program(text, mbpp_names(doc)[0], text))


def mbpp_instruct_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter for text that goes on inside an opened fence: what comes before the closing one."""
    return _each(
        resps, docs, lambda doc, text: whole_program(text, mbpp_names(doc)[0], text.split("```", 1)[0])
    )


def mbpp_program(resps: list[list[str]], docs: list[Doc]) -> list[str]:
    """The same for one answer per document: the stock task takes the first."""
    return [programs[0] for programs in mbpp_programs(resps, docs)]


def nano_code_programs(resps: list[list[str]], docs: list[Doc]) -> list[list[str]]:
    """lm-eval filter: prompt + completion."""
    return _each(resps, docs, lambda doc, text: doc["prompt"] + text)
