"""nano-code: write the body of a small Python function from its docstring.

A specification is a pipeline of operations over a list, a string or two numbers; every operation
knows its wordings, its one canonical line of code and its meaning. Expected values of the tests come
from the meanings, never from running a response. A problem's key is its operations and constants.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from suites.generators import Split, split_of
from suites.generators.code_operations import FAMILIES, NAMES, Family, Operation

Value = Any

# What a line computes: the condition or the expression of a list comprehension, else all that is assigned or
# returned.
_COMPUTED = re.compile(r" *(?:return|\w+ =) (?:\[(?:x for x in xs if )?(.*?)(?: for x in xs)?\]|(.*))")


@dataclass(frozen=True)
class CodeDifficulty:
    """Pipelines have ``min_steps`` to ``max_steps`` operations before the final one; ``tests`` is assertions
    per item.
    """

    min_steps: int = 1
    max_steps: int = 2
    tests: int = 5


@dataclass(frozen=True)
class CodeItem:
    """``prompt`` ends after the docstring's line; ``response`` is the indented body without a final
    newline.
    """

    prompt: str
    response: str
    entry_point: str
    tests: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Step:
    """An operation with its constants filled in."""

    operation: Operation
    constants: dict[str, Any]

    def text(self, rng: random.Random) -> str:
        return rng.choice(self.operation.texts).format(**self.constants)

    @property
    def line(self) -> str:
        return self.operation.code.format(**self.constants)

    def run(self, state: dict[str, Value]) -> Value:
        return self.operation.meaning(state, **self.constants)


def draw_step(rng: random.Random, operations: tuple[Operation, ...]) -> Step:
    operation = rng.choice(operations)
    return Step(operation, {name: rng.choice(values) for name, values in operation.constants.items()})


def draw_pipeline(rng: random.Random, difficulty: CodeDifficulty) -> tuple[Family, list[Step]]:
    family = rng.choice(FAMILIES)
    count = rng.randint(difficulty.min_steps, difficulty.max_steps)
    steps = [draw_step(rng, family.steps) for _ in range(count)]
    return family, [*steps, draw_step(rng, family.finals)]


def key_of(family: Family, steps: list[Step]) -> str:
    return f"code:{family.arguments}:" + ";".join(step.line for step in steps)


def evaluate(family: Family, steps: list[Step], arguments: tuple[Value, ...]) -> Value:
    """The specified result, computed from the meanings of the operations."""
    state = dict(zip(family.arguments.split(", "), arguments, strict=True))
    target = family.arguments[0] if family.arguments.startswith("a") else family.arguments
    for step in steps[:-1]:
        state[target] = step.run(state)
    return steps[-1].run(state)


def sentence(rng: random.Random, steps: list[Step]) -> str:
    texts = [step.text(rng) for step in steps]
    joined = ", ".join(texts[:-1]) + " and " + texts[-1]
    return joined[0].upper() + joined[1:] + "."


def assertions(
    rng: random.Random, family: Family, steps: list[Step], name: str, count: int
) -> tuple[str, ...] | None:
    """``count`` assert statements on distinct inputs; None if the specification is trivial on them."""
    lines: list[str] = []
    results = set()
    for _ in range(count * 4):
        arguments = family.inputs(rng)
        try:
            expected = evaluate(family, steps, arguments)
        except (ValueError, IndexError):
            continue
        call = ", ".join(repr(argument) for argument in arguments)
        line = f"assert {name}({call}) == {expected!r}"
        if line not in lines:
            lines.append(line)
            results.add(repr(expected))
        if len(lines) == count:
            return tuple(lines) if len(results) > 1 else None
    return None


def plan_of(body: str) -> str:
    """A comment that names what each line of a canonical ``body`` computes.

    >>> plan_of("    xs = [x for x in xs if x > 4]\\n    return sum(xs)")
    '    # x > 4, sum(xs)'
    """
    found = [_COMPUTED.fullmatch(line) for line in body.splitlines()]
    return "    # " + ", ".join(match[1] or match[2] for match in found if match)


def generate(
    rng: random.Random,
    split: Split,
    difficulty: CodeDifficulty | None = None,
    with_tests: bool = True,
    plan: bool = False,
) -> CodeItem:
    """Draw one problem of ``split`` (rejection on the key's hash).

    Tests can be left out for training; with ``plan`` the response starts with a comment on what its lines
    compute.
    """
    difficulty = difficulty or CodeDifficulty()
    while True:
        family, steps = draw_pipeline(rng, difficulty)
        key = key_of(family, steps)
        if split_of(key) != split:
            continue
        name = rng.choice(NAMES)
        prompt = f'def {name}({family.arguments}):\n    """{sentence(rng, steps)}"""\n'
        tests = assertions(rng, family, steps, name, difficulty.tests) if with_tests else ()
        if tests is not None:
            body = "\n".join(f"    {step.line}" for step in steps)
            return CodeItem(prompt, f"{plan_of(body)}\n{body}" if plan else body, name, tests, key)


def program(prompt: str, response: str, tests: tuple[str, ...] | list[str]) -> str:
    """A complete program that raises unless prompt + response passes the tests."""
    return prompt + response + "\n\n" + "\n".join(tests) + "\n"
