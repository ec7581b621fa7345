"""Rewards that are verified, not learned: tests passed, final answers that match, and the form of the answer.

Everything here runs in the reward process (see reward_server); a program of the model runs in the jail,
another process still.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.sandbox import Check, Jail, Limits
from suites.answers import final_number

Form = Literal["completion", "fenced"]
FENCED = re.compile(r"```python\n(.*?)```\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Reward:
    """Components in [0, 1] by name, and how they came about: passed, failed, timeout, memory, crashed,
    not_run, or no_answer.
    """

    components: dict[str, float] = field(default_factory=dict)
    status: str = "no_answer"


def parses(program: str) -> bool:
    """Whether the text is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def program_of(prompt: str, text: str, form: Form) -> tuple[str, float]:
    """The program of an answer and its format reward.

    completion: the text goes on where the prompt ends; 1 if the whole parses, else 0. fenced (DiffuCoder):
    one Python block that ends the text; 1 if it parses, 0.5 if not, 0 without such a block.
    """
    if form == "completion":
        return prompt + text, float(bool(text.strip()) and parses(prompt + text))
    match = FENCED.search(text)
    if match is None or text.count("```") != 2:
        return "", 0.0
    return match[1], 1.0 if parses(match[1]) else 0.5


def code_reward(task: dict[str, Any], text: str, form: Form, jail: Jail, limits: Limits) -> Reward:
    """tests: the share of assert statements that hold, 0 unless the format is right or when time runs out;
    format: see program_of.
    """
    program, shape = program_of(task["prompt"], text, form)
    if shape < 1.0:
        return Reward({"tests": 0.0, "format": shape})
    tests: list[str] = task["tests"]
    whole = jail.run(Check(program, (task["entry_point"],), tests="\n".join(tests), limits=limits))
    if whole.passed or whole.grading in ("timeout", "not_run") or len(tests) == 1:
        return Reward({"tests": float(whole.passed), "format": shape}, whole.grading)
    single = [jail.run(Check(program, (task["entry_point"],), tests=test, limits=limits)) for test in tests]
    return Reward(
        {"tests": sum(verdict.passed for verdict in single) / len(tests), "format": shape}, whole.grading
    )


def math_reward(task: dict[str, Any], text: str) -> Reward:
    """answer: 1 for the right final answer; format: 1 if there is one (``#### number``, or
    ``\\boxed{...}``).
    """
    number = final_number(text)
    if number is not None:
        right = number == task["answer"].replace(",", "")
        return Reward({"answer": float(right), "format": 1.0}, "passed" if right else "failed")
    if "\\boxed" not in text:
        return Reward({"answer": 0.0, "format": 0.0})
    from math_verify import parse, verify

    right = bool(verify(parse(f"${task['answer']}$"), parse(text)))
    return Reward({"answer": float(right), "format": 1.0}, "passed" if right else "failed")


def reward_of(
    task: dict[str, Any], text: str | None, form: Form, jail: Jail | None, limits: Limits
) -> Reward:
    """The reward of one answer; None (nothing could be decoded) earns nothing. Code needs a jail."""
    names = ("tests", "format") if task["tests"] else ("answer", "format")
    if text is None:
        return Reward(dict.fromkeys(names, 0.0))
    if not task["tests"]:
        return math_reward(task, text)
    assert jail is not None
    return code_reward(task, text, form, jail, limits)
