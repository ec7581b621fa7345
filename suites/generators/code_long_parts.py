"""Conditions, values and meaning of the functions of nano-long-code."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST = 14  # of the numbers in lists, where conditions are no limits
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class Part:
    """A condition or a value of x: its words, its code, its meaning, and the same code with its operands
    exchanged, if that is the same.
    """

    text: str
    code: str
    meaning: Callable[[int], Any]
    exchanged: str = ""


@dataclass(frozen=True)
class Branch:
    """``action``: add, subtract, skip or stop; a machine uses ``constant`` and reads skip as "set to", stop
    as "multiply by".
    """

    condition: Part
    value: Part
    action: str
    constant: int = 0


@dataclass(frozen=True)
class Spec:
    """One function. ``last``: the value where no condition holds; ``start``, ``finish``: its constants;
    ``rising``: start and rise.
    """

    kind: str
    branches: tuple[Branch, ...]
    last: Part
    start: int
    finish: int
    rising: tuple[int, int] | None


Maker = Callable[[int], Part]
CONDITIONS: tuple[Maker, ...] = (
    lambda k: Part("x is even", "x % 2 == 0", lambda x: x % 2 == 0),
    lambda k: Part("x is odd", "x % 2 == 1", lambda x: x % 2 == 1),
    lambda k: Part(f"x is above {k}", f"x > {k}", lambda x: x > k),
    lambda k: Part(f"x is below {k}", f"x < {k}", lambda x: x < k),
    lambda k: Part(f"x is {k}", f"x == {k}", lambda x: x == k),
    lambda k: Part(f"{k} divides x", f"x % {k} == 0", lambda x: x % k == 0),
)
VALUES: tuple[Maker, ...] = (
    lambda k: Part("x", "x", lambda x: x),
    lambda k: Part("x squared", "x * x", lambda x: x * x),
    lambda k: Part(f"{k}", f"{k}", lambda x: k),
    lambda k: Part(f"x plus {k}", f"x + {k}", lambda x: x + k, f"{k} + x"),
    lambda k: Part(f"x minus {k}", f"x - {k}", lambda x: x - k),
    lambda k: Part(f"x times {k}", f"x * {k}", lambda x: x * k, f"{k} * x"),
    lambda k: Part(f"x modulo {k}", f"x % {k}", lambda x: x % k),
)


def draw_part(rng: random.Random, makers: tuple[Maker, ...]) -> Part:
    return rng.choice(makers)(rng.randint(3, 9))


def inputs(rng: random.Random, spec: Spec) -> Any:
    """An argument that tends to reach every branch."""
    if spec.kind == "number":
        return rng.randint(0, 44)
    if spec.kind == "machine":
        assert spec.rising is not None
        start, rise = spec.rising
        codes = [start + rise * rng.randrange(len(spec.branches)) for _ in range(rng.randint(3, 7))]
        return codes if rng.random() < 0.6 else [*codes[:-2], start + rise * len(spec.branches), *codes[-2:]]
    return [rng.randint(0, 30 if spec.rising else LARGEST) for _ in range(rng.randint(5, 9))]


def _branch(spec: Spec, x: int) -> int:
    return next(
        (i for i, branch in enumerate(spec.branches) if branch.condition.meaning(x)), len(spec.branches)
    )


def evaluate(spec: Spec, argument: Any) -> tuple[Any, set[int]]:
    """The specified result and the branches reached (the last resort counts as one more)."""
    if spec.kind == "machine":
        return _run_machine(spec, argument)
    values = [branch.value for branch in spec.branches] + [spec.last]
    actions = [branch.action for branch in spec.branches] + ["add"]
    if spec.kind == "number":
        place = _branch(spec, argument)
        return values[place].meaning(argument), {place}
    total, kept, reached = spec.start, [], set()
    for x in argument:
        place = _branch(spec, x)
        reached.add(place)
        if actions[place] == "stop":
            break
        if actions[place] != "skip":
            value = values[place].meaning(x)
            total += -value if actions[place] == "subtract" else value
            kept.append(value)
    if spec.kind == "total":
        return total + spec.finish, reached
    return (kept, sum(kept), len(kept), sorted(kept))[spec.finish % 4], reached


def _run_machine(spec: Spec, codes: list[int]) -> tuple[int, set[int]]:
    assert spec.rising is not None
    start, rise = spec.rising
    value, reached = spec.start, set()
    for code in codes:
        place, rest = divmod(code - start, rise)
        place = place if rest == 0 and 0 <= place < len(spec.branches) else len(spec.branches)
        reached.add(place)
        if place == len(spec.branches):
            break
        k = spec.branches[place].constant
        value = {"add": value + k, "subtract": value - k, "skip": k, "stop": value * k}[
            spec.branches[place].action
        ]
    return value, reached
