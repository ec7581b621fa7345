"""nano-gsm: word problems of two or three steps with an equations-only chain of thought.

>>> item = generate(random.Random(0), "train")
>>> item.prompt, item.response
('Q: Nina has 4 nuts ... left?\\nA:', ' 4+6=10\\n10-3=7\\n#### 7')

A problem's key is its chain of equations (operands of + and * in sorted order), so two wordings of
one calculation are one problem.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from functools import lru_cache

from suites.generators import SPLITS, Split, split_of
from suites.generators.gsm_scenarios import NAMES, OBJECTS, SCENARIOS, Scenario

Equation = tuple[int, str, int, int]  # left, operator, right, result
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Difficulty:
    """How hard the arithmetic is; every figure is inclusive.

    ``max_operand`` bounds the numbers of the text (``max_total``: the few large ones, such as a
    banknote), ``max_result`` and ``max_product`` every intermediate result, ``min_steps`` and
    ``max_steps`` the equations of one problem.
    """

    max_operand: int = 9
    max_total: int = 20
    max_result: int = 30
    max_product: int = 25
    min_steps: int = 2
    max_steps: int = 3


@dataclass(frozen=True)
class GsmItem:
    """One problem: ``response`` starts with a space and ends with ``#### answer``."""

    prompt: str
    response: str
    answer: str
    key: str


def key_of(equations: list[Equation]) -> str:
    """Structure and numbers of a chain of equations."""
    parts = []
    for left, operator, right, _ in equations:
        low, high = sorted((left, right)) if operator in "+*" else (left, right)
        parts.append(f"{low}{operator}{high}")
    return "gsm:" + ";".join(parts)


def solve(program: str, numbers: dict[str, int], difficulty: Difficulty) -> list[Equation] | None:
    """Run a program such as ``"a+b p-c"`` (p, q: first and second result); None if a bound is broken."""
    values, equations = dict(numbers), []
    for name, step in zip("pqr", program.split(), strict=False):
        left, operator, right = (
            (values.get(step[0]) or int(step[0])),
            step[1],
            (values.get(step[2]) or int(step[2])),
        )
        result = _apply(left, operator, right)
        if result is None or not 1 <= result <= difficulty.max_result:
            return None
        if operator in "*/" and (max(result, left) > difficulty.max_product or min(left, right) < 2):
            return None
        values[name] = result
        equations.append((left, operator, right, result))
    return equations


def _apply(left: int, operator: str, right: int) -> int | None:
    if operator == "/":
        return left // right if left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


@lru_cache(maxsize=4)
def problems(difficulty: Difficulty) -> dict[Split, list[tuple[Scenario, list[tuple[Numbers, str]]]]]:
    """All number tuples of every scenario with their keys, by split."""
    table: dict[Split, list[tuple[Scenario, list[tuple[Numbers, str]]]]] = {split: [] for split in SPLITS}
    for scenario in SCENARIOS:
        if not difficulty.min_steps <= len(scenario.program.split()) <= difficulty.max_steps:
            continue
        found: dict[Split, list[tuple[Numbers, str]]] = {split: [] for split in SPLITS}
        for numbers in itertools.product(*(_domain(letter, difficulty) for letter in scenario.letters)):
            equations = solve(scenario.program, dict(zip(scenario.letters, numbers, strict=True)), difficulty)
            if equations:
                key = key_of(equations)
                found[split_of(key)].append((numbers, key))
        for split in SPLITS:
            if found[split]:
                table[split].append((scenario, found[split]))
    return table


def _domain(letter: str, difficulty: Difficulty) -> range:
    if letter.isupper():
        return range(difficulty.max_operand + 1, difficulty.max_total + 1)
    return range(2, difficulty.max_operand + 1)


def render(equations: list[Equation]) -> str:
    """The response: one equation per line, then the answer."""
    lines = [f"{left}{operator}{right}={result}" for left, operator, right, result in equations]
    return " " + "\n".join([*lines, f"#### {equations[-1][3]}"])


def generate(rng: random.Random, split: Split, difficulty: Difficulty | None = None) -> GsmItem:
    """Draw one problem of ``split``: scenario, then numbers, then wording, names and objects."""
    difficulty = difficulty or Difficulty()
    scenario, choices = rng.choice(problems(difficulty)[split])
    numbers, key = rng.choice(choices)
    values = dict(zip(scenario.letters, numbers, strict=True))
    equations = solve(scenario.program, values, difficulty)
    assert equations is not None
    first, second, third = rng.sample(NAMES, 3)
    words = {"n": first, "m": second, "k": third, "o": rng.choice(OBJECTS), **values}
    text = rng.choice(scenario.texts).format(**words)
    return GsmItem(f"Q: {text}\nA:", render(equations), str(equations[-1][3]), key)


@lru_cache(maxsize=4)
def facts(difficulty: Difficulty) -> list[Equation]:
    """Every single equation that occurs in some problem, sorted: the times tables to drill."""
    found: set[Equation] = set()
    for rows in problems(difficulty).values():
        for scenario, choices in rows:
            for numbers, _ in choices:
                found.update(
                    solve(scenario.program, dict(zip(scenario.letters, numbers, strict=True)), difficulty)
                    or []
                )
    return sorted(found)


def drill(rng: random.Random, difficulty: Difficulty | None = None, count: int = 3) -> GsmItem:
    """A sheet of independent bare equations, for training only.

    No result is an operand of the next equation, so that a sheet never spells out the chain of a
    held-out problem.
    """
    pool = facts(difficulty or Difficulty())
    chosen = [rng.choice(pool)]
    while len(chosen) < count:
        equation = rng.choice(pool)
        if chosen[-1][3] not in (equation[0], equation[2]):
            chosen.append(equation)
    questions = ", ".join(f"{left}{operator}{right}" for left, operator, right, _ in chosen)
    return GsmItem(f"Q: {questions}\nA:", render(chosen), str(chosen[-1][3]), "drill:" + questions)


def blocks(response: str) -> tuple[str, str]:
    """(equations, line with the answer) of a response; the line break between them belongs to the answer."""
    equations, mark, answer = response.rpartition("\n####")
    return equations, mark + answer


def is_correct(response: str, answer: str) -> bool:
    """Whether the first ``#### number`` is the answer (as the strict match of gsm8k)."""
    found = re.findall(r"#### (\-?[0-9.,]+)", response)
    return bool(found) and found[0].rstrip(".") == answer
