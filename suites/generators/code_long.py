"""nano-long-code: write a function of several branches from the sentences of its docstring.

Four kinds of function: a number sorted by limits, a loop over a list with a running total, a loop that
collects a list, and a machine that runs codes on a number. Limits and codes are told by their first value and
their rise, so each follows from the one before. Two choices are free, as in real code, and what is written
later has to agree with them: the name of the running variable, and the order of the operands of + and *.
Expected values come from a reading of the specification (`code_long_parts`), never from running a response. A
problem's key is its body without these choices.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from suites.generators import Split, split_of
from suites.generators.code import CodeItem
from suites.generators.code_long_parts import (
    CONDITIONS,
    LARGEST,
    ORDINALS,
    VALUES,
    Branch,
    Part,
    Spec,
    draw_part,
    evaluate,
    inputs,
)
from suites.generators.code_operations import NAMES

FREE_NAMES = ("total", "result", "value", "count")
INDENT = "    "


@dataclass(frozen=True)
class LongCodeDifficulty:
    """Functions have ``min_branches`` to ``max_branches`` conditions besides the last resort, those of a
    single number ``longer`` ones (their branches are short); ``tests`` is assertions per item."""

    min_branches: int = 4
    max_branches: int = 6
    longer: int = 2
    tests: int = 8


SHORT = LongCodeDifficulty(1, 3, 0)


def _conditions(rng: random.Random, count: int, rising: bool) -> tuple[list[Part], tuple[int, int] | None]:
    """``count`` different conditions, and start and rise if they are limits."""
    if not rising:
        while True:
            parts = [draw_part(rng, CONDITIONS) for _ in range(count)]
            first = [
                next((i for i, part in enumerate(parts) if part.meaning(x)), count)
                for x in range(LARGEST + 1)
            ]
            if min(first.count(i) for i in range(count + 1)) >= 1:  # every branch can be reached
                return parts, None
    start, rise = rng.randint(2, 6), rng.randint(2, 5)
    limits = [start + rise * i for i in range(count)]
    return [
        Part(f"x is below the {ORDINALS[i]}", f"x < {k}", lambda x, k=k: x < k) for i, k in enumerate(limits)
    ], (start, rise)


def _limits(spec: Spec) -> str:
    return "" if spec.rising is None else f"Limits start at {spec.rising[0]} and rise by {spec.rising[1]}."


def _choose(spec: Spec, first: str, told: list[str]) -> list[str]:
    """One sentence per branch: `first` opens the first."""
    openings = [first] + ["Else if"] * (len(spec.branches) - 1)
    lines = [
        f"{opening} {branch.condition.text} {text}."
        for opening, branch, text in zip(openings, spec.branches, told, strict=False)
    ]
    return [*lines, f"Otherwise {told[-1]}."]


def _ladder(spec: Spec, bodies: list[str], depth: int) -> list[str]:
    """if, elif, else over the branches; ``bodies`` has one line per branch and the last resort's."""
    lines = []
    for word, branch, body in zip(
        ["if"] + ["elif"] * len(spec.branches), spec.branches, bodies, strict=False
    ):
        lines += [f"{INDENT * depth}{word} {branch.condition.code}:", f"{INDENT * (depth + 1)}{body}"]
    return [*lines, f"{INDENT * depth}else:", f"{INDENT * (depth + 1)}{bodies[-1]}"]


def _number(spec: Spec, name: str) -> tuple[list[str], list[str]]:
    parts = [branch.value for branch in spec.branches] + [spec.last]
    told = [_limits(spec), *_choose(spec, "If", [f"return {part.text}" for part in parts])]
    return told, _ladder(spec, [f"return {part.code}" for part in parts], 1)


def _total(spec: Spec, name: str) -> tuple[list[str], list[str]]:
    said, written = [], []
    for branch in [*spec.branches, Branch(CONDITIONS_NONE, spec.last, "add")]:
        verb, line = {
            "add": (f"add {branch.value.text}", f"{name} += {branch.value.code}"),
            "subtract": (f"subtract {branch.value.text}", f"{name} -= {branch.value.code}"),
            "skip": ("skip it", "continue"),
            "stop": ("stop", "break"),
        }[branch.action]
        said.append(verb)
        written.append(line)
    told = [f"Start with {spec.start} and go through xs.", _limits(spec), *_choose(spec, "If", said)]
    told.append(f"Return the total plus {spec.finish}.")
    body = [f"{INDENT}{name} = {spec.start}", f"{INDENT}for x in xs:", *_ladder(spec, written, 2)]
    return told, [*body, f"{INDENT}return {name} + {spec.finish}"]


def _collect(spec: Spec, name: str) -> tuple[list[str], list[str]]:
    said, written = [], []
    for branch in [*spec.branches, Branch(CONDITIONS_NONE, spec.last, "add")]:
        plain = branch.action in ("add", "subtract")
        said.append(
            f"keep {branch.value.text}" if plain else {"skip": "skip it", "stop": "stop"}[branch.action]
        )
        written.append(
            f"{name}.append({branch.value.code})"
            if plain
            else {"skip": "continue", "stop": "break"}[branch.action]
        )
    text, code = {
        0: ("list", name),
        1: ("sum", f"sum({name})"),
        2: ("length", f"len({name})"),
        3: ("sorted list", f"sorted({name})"),
    }[spec.finish % 4]
    told = ["Make a list from xs.", _limits(spec), *_choose(spec, "If", said), f"Return the {text}."]
    body = [f"{INDENT}{name} = []", f"{INDENT}for x in xs:", *_ladder(spec, written, 2)]
    return told, [*body, f"{INDENT}return {code}"]


def _machine(spec: Spec, name: str) -> tuple[list[str], list[str]]:
    assert spec.rising is not None
    start, rise = spec.rising
    told = [
        f"Start with {spec.start} and run the codes of xs.",
        f"Codes start at {start} and rise by {rise}.",
    ]
    lines = [f"{INDENT}{name} = {spec.start}", f"{INDENT}for x in xs:"]
    for i, branch in enumerate(spec.branches):
        verb, line = {
            "add": (f"adds {branch.constant}", f"{name} += {branch.constant}"),
            "subtract": (f"subtracts {branch.constant}", f"{name} -= {branch.constant}"),
            "skip": (f"sets it to {branch.constant}", f"{name} = {branch.constant}"),
            "stop": (f"multiplies it by {branch.constant}", f"{name} *= {branch.constant}"),
        }[branch.action]
        told.append(f"The {ORDINALS[i]} {verb}.")
        lines += [f"{INDENT * 2}{'elif' if i else 'if'} x == {start + rise * i}:", f"{INDENT * 3}{line}"]
    told.append("Any other stops. Return the result.")
    return told, [*lines, f"{INDENT * 2}else:", f"{INDENT * 3}break", f"{INDENT}return {name}"]


KINDS: dict[str, Callable[[Spec, str], tuple[list[str], list[str]]]] = {
    "number": _number,
    "total": _total,
    "collect": _collect,
    "machine": _machine,
}
CONDITIONS_NONE = Part("", "", lambda x: True)


def draw_spec(rng: random.Random, difficulty: LongCodeDifficulty) -> Spec:
    kind = rng.choice(tuple(KINDS))
    count = rng.randint(difficulty.min_branches, difficulty.max_branches) + (
        difficulty.longer if kind == "number" else 0
    )
    conditions, rising = _conditions(rng, count, kind in ("number", "machine") or rng.random() < 0.5)
    actions = (
        ["add"] * count
        if kind == "number"
        else [rng.choice(("add", "add", "subtract", "skip", "stop")) for _ in range(count)]
    )
    if kind != "machine":
        actions = [
            a if actions.index(a) == i or a in ("add", "subtract") else "add" for i, a in enumerate(actions)
        ]
    branches = tuple(
        Branch(condition, draw_part(rng, VALUES), action, rng.randint(2, 9))
        for condition, action in zip(conditions, actions, strict=True)
    )
    return Spec(kind, branches, draw_part(rng, VALUES), rng.randint(2, 9), rng.randint(2, 9), rising)


def free_order(rng: random.Random, spec: Spec) -> Spec:
    """The same function, the operands of + and * in random order."""

    def turn(part: Part) -> Part:
        return replace(part, code=rng.choice((part.code, part.exchanged))) if part.exchanged else part

    return replace(
        spec, branches=tuple(replace(b, value=turn(b.value)) for b in spec.branches), last=turn(spec.last)
    )


def assertions(rng: random.Random, spec: Spec, name: str, count: int) -> tuple[str, ...] | None:
    """``count`` assertions on distinct inputs that reach every branch; None if some branch is hardly ever
    reached.
    """
    wanted = set(range(len(spec.branches) + 1))
    chosen: dict[str, set[int]] = {}
    results = set()
    for _ in range(200):
        argument = inputs(rng, spec)
        expected, reached = evaluate(spec, argument)
        line = f"assert {name}({argument!r}) == {expected!r}"
        seen = set().union(*chosen.values())
        spare = count - len(chosen)
        if line not in chosen and spare and (reached - seen or spare > len(wanted - seen)):
            chosen[line] = reached
            results.add(repr(expected))
    complete = len(chosen) == count and set().union(*chosen.values()) == wanted and len(results) > 1
    return tuple(chosen) if complete else None


def generate(
    rng: random.Random, split: Split, difficulty: LongCodeDifficulty | None = None, with_tests: bool = True
) -> CodeItem:
    """Draw one problem of ``split`` (rejection on the key's hash); tests can be left out for training."""
    difficulty = difficulty or LongCodeDifficulty()
    while True:
        spec = draw_spec(rng, difficulty)
        _, body = KINDS[spec.kind](spec, "_")
        key = f"code-long:{'x' if spec.kind == 'number' else 'xs'}:" + ";".join(line.strip() for line in body)
        if split_of(key) != split:
            continue
        name = rng.choice(NAMES)
        tests = assertions(rng, spec, name, difficulty.tests) if with_tests else ()
        if tests is None:
            continue
        told, body = KINDS[spec.kind](free_order(rng, spec), rng.choice(FREE_NAMES))
        text = f"\n{INDENT}".join(line for line in told if line)
        argument = "x" if spec.kind == "number" else "xs"
        return CodeItem(
            f'def {name}({argument}):\n{INDENT}""" {text}"""\n', "\n".join(body), name, tests, key
        )
