"""The operations of nano-code: wordings, one canonical line of code, meaning.

``meaning`` takes the function's variables as a dictionary and the constants by name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SMALL = range(2, 10)
LETTERS = "abcdeklmnorst"
NAMES = ("f", "g", "run", "solve", "compute", "apply", "process", "task")

Meaning = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    texts: tuple[str, ...]
    code: str
    meaning: Meaning
    constants: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Functions of the same arguments; ``steps`` rebind the first argument, ``finals`` return."""

    arguments: str
    steps: tuple[Operation, ...]
    finals: tuple[Operation, ...]
    inputs: Callable[[random.Random], tuple[Any, ...]]


def _keep(texts: tuple[str, ...], condition: str, test: Callable[..., bool], **constants: Any) -> Operation:
    code = f"xs = [x for x in xs if {condition}]"
    return Operation(texts, code, lambda v, **c: [x for x in v["xs"] if test(x, **c)], constants)


def _each(texts: tuple[str, ...], expression: str, value: Callable[..., Any], **constants: Any) -> Operation:
    code = f"xs = [{expression} for x in xs]"
    return Operation(texts, code, lambda v, **c: [value(x, **c) for x in v["xs"]], constants)


def _on(
    name: str, texts: tuple[str, ...], code: str, value: Callable[..., Any], **constants: Any
) -> Operation:
    return Operation(texts, code, lambda v, **c: value(v[name], **c), constants)


LIST_STEPS = (
    _keep(
        ("keep the numbers of xs above {k}", "keep only items greater than {k}"),
        "x > {k}",
        lambda x, k: x > k,
        k=SMALL,
    ),
    _keep(
        ("keep the numbers of xs below {k}", "keep only items less than {k}"),
        "x < {k}",
        lambda x, k: x < k,
        k=SMALL,
    ),
    _keep(("drop every {k} from xs", "remove items equal to {k}"), "x != {k}", lambda x, k: x != k, k=SMALL),
    _keep(
        ("keep the multiples of {k}", "keep only items divisible by {k}"),
        "x % {k} == 0",
        lambda x, k: x % k == 0,
        k=range(3, 8),
    ),
    _keep(("keep the even numbers of xs", "keep only even items"), "x % 2 == 0", lambda x: x % 2 == 0),
    _keep(("keep the odd numbers of xs", "keep only odd items"), "x % 2 == 1", lambda x: x % 2 == 1),
    _each(("add {k} to each item", "increase each number by {k}"), "x + {k}", lambda x, k: x + k, k=SMALL),
    _each(
        ("subtract {k} from each item", "decrease each number by {k}"), "x - {k}", lambda x, k: x - k, k=SMALL
    ),
    _each(("multiply each item by {k}", "scale each number by {k}"), "x * {k}", lambda x, k: x * k, k=SMALL),
    _each(("square each item", "multiply each number by itself"), "x * x", lambda x: x * x),
    _each(
        ("reduce each item modulo {k}", "replace each number by its remainder by {k}"),
        "x % {k}",
        lambda x, k: x % k,
        k=SMALL,
    ),
    _on("xs", ("sort xs", "put the items in order"), "xs = sorted(xs)", sorted),
    _on("xs", ("reverse xs", "turn the list around"), "xs = xs[::-1]", lambda v: v[::-1]),
    _on(
        "xs",
        ("take the first {k} items", "cut xs to {k} items"),
        "xs = xs[:{k}]",
        lambda v, k: v[:k],
        k=range(2, 6),
    ),
    _on(
        "xs",
        ("skip the first {k} items", "drop {k} items from the front"),
        "xs = xs[{k}:]",
        lambda v, k: v[k:],
        k=range(2, 6),
    ),
)
LIST_FINALS = (
    _on("xs", ("return xs", "return the list"), "return xs", lambda v: v),
    _on("xs", ("return the sum", "return the total"), "return sum(xs)", sum),
    _on("xs", ("return the number of items", "return the length"), "return len(xs)", len),
    _on("xs", ("return the largest item", "return the maximum"), "return max(xs)", max),
    _on("xs", ("return the smallest item", "return the minimum"), "return min(xs)", min),
    _on(
        "xs",
        ("count the items equal to {k}", "return how often {k} occurs"),
        "return xs.count({k})",
        lambda v, k: v.count(k),
        k=SMALL,
    ),
    _on(
        "xs",
        ("return the sum plus {k}", "return the total increased by {k}"),
        "return sum(xs) + {k}",
        lambda v, k: sum(v) + k,
        k=SMALL,
    ),
    _on(
        "xs",
        ("return the sum times {k}", "return {k} times the total"),
        "return sum(xs) * {k}",
        lambda v, k: sum(v) * k,
        k=SMALL,
    ),
)
TEXT_STEPS = (
    _on("s", ("turn s into upper case", "make s all capitals"), "s = s.upper()", str.upper),
    _on("s", ("reverse s", "turn s around"), "s = s[::-1]", lambda v: v[::-1]),
    _on("s", ("repeat s {k} times", "write s {k} times"), "s = s * {k}", lambda v, k: v * k, k=range(2, 6)),
    _on(
        "s",
        ("take the first {k} letters", "cut s to {k} letters"),
        "s = s[:{k}]",
        lambda v, k: v[:k],
        k=SMALL,
    ),
    _on(
        "s",
        ("skip the first {k} letters", "drop {k} letters from the front"),
        "s = s[{k}:]",
        lambda v, k: v[k:],
        k=range(2, 6),
    ),
)
TEXT_FINALS = (
    _on("s", ("return s", "return the text"), "return s", lambda v: v),
    _on("s", ("return the number of letters", "return the length"), "return len(s)", len),
    _on("s", ("return its first letter", "return the letter at the front"), "return s[0]", lambda v: v[0]),
    _on("s", ("return its last letter", "return the letter at the end"), "return s[-1]", lambda v: v[-1]),
)
NUMBER_STEPS = (
    _on("a", ("add {k} to a", "increase a by {k}"), "a = a + {k}", lambda v, k: v + k, k=SMALL),
    _on("a", ("subtract {k} from a", "decrease a by {k}"), "a = a - {k}", lambda v, k: v - k, k=SMALL),
    _on("a", ("multiply a by {k}", "scale a by {k}"), "a = a * {k}", lambda v, k: v * k, k=SMALL),
    _on(
        "a",
        ("reduce a modulo {k}", "replace a by its remainder by {k}"),
        "a = a % {k}",
        lambda v, k: v % k,
        k=SMALL,
    ),
    _on(
        "a",
        ("divide a by {k} rounding down", "take the whole part of a over {k}"),
        "a = a // {k}",
        lambda v, k: v // k,
        k=SMALL,
    ),
    Operation(("add b to a", "increase a by b"), "a = a + b", lambda v: v["a"] + v["b"]),
    Operation(("subtract b from a", "decrease a by b"), "a = a - b", lambda v: v["a"] - v["b"]),
    Operation(("multiply a by b", "scale a by b"), "a = a * b", lambda v: v["a"] * v["b"]),
    Operation(
        ("raise a to at least {k}", "make a at least {k}"),
        "a = max(a, {k})",
        lambda v, k: max(v["a"], k),
        {"k": SMALL},
    ),
    Operation(
        ("cap a at {k}", "make a at most {k}"), "a = min(a, {k})", lambda v, k: min(v["a"], k), {"k": SMALL}
    ),
)
NUMBER_FINALS = (
    Operation(("return a", "return the result"), "return a", lambda v: v["a"]),
    Operation(("return its square", "return a squared"), "return a * a", lambda v: v["a"] * v["a"]),
    Operation(("return the larger of a and b", "return the maximum of a and b"), "return max(a, b)",
              lambda v: max(v["a"], v["b"])),
    Operation(("return the smaller of a and b", "return the minimum of a and b"), "return min(a, b)",
              lambda v: min(v["a"], v["b"])),
    Operation(("return whether a is above {k}", "tell if a exceeds {k}"), "return a > {k}",
              lambda v, k: v["a"] > k, {"k": SMALL}),
    Operation(("return whether a is a multiple of {k}", "tell if {k} divides a"), "return a % {k} == 0",
              lambda v, k: v["a"] % k == 0, {"k": range(3, 8)}),
    Operation(("return a plus b", "return the sum of a and b"), "return a + b", lambda v: v["a"] + v["b"]),
    Operation(("return a times b", "return the product of "
                                   "a and b"), "return a * b", lambda v: v["a"] * v["b"]),
)  # fmt: skip


def _list_inputs(rng: random.Random) -> tuple[Any, ...]:
    return ([rng.randint(0, 12) for _ in range(rng.randint(4, 8))],)


def _text_inputs(rng: random.Random) -> tuple[Any, ...]:
    return ("".join(rng.choice(LETTERS) for _ in range(rng.randint(4, 9))),)


def _number_inputs(rng: random.Random) -> tuple[Any, ...]:
    return (rng.randint(0, 20), rng.randint(1, 12))


FAMILIES: tuple[Family, ...] = (
    Family("xs", LIST_STEPS, LIST_FINALS, _list_inputs),
    Family("s", TEXT_STEPS, TEXT_FINALS, _text_inputs),
    Family("a, b", NUMBER_STEPS, NUMBER_FINALS, _number_inputs),
)
