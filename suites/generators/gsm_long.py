"""nano-long-gsm: word problems of seven to nine steps whose steps are written out in words and equations.

>>> item = generate(random.Random(0), "train")
>>> item.prompt, item.response
('Q: Tom has 7 pens. Ann has 5 more pens than Tom. ...\\nA:', ' Tom has 7 pens. Ann has 7 + 5 = 12 pens.
...\\n#### 30')

Every step needs the result of an earlier one, so few tokens can be written at once. A problem's key is its
chain of equations (operands of + and * in sorted order): two stories of one calculation are one problem.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from suites.generators import Split, split_of
from suites.generators.gsm import Equation, GsmItem, key_of
from suites.generators.gsm_scenarios import NAMES, OBJECTS

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PLACES = ("shelf", "box", "bag", "shop", "table", "garden")


@dataclass(frozen=True)
class LongDifficulty:
    """``min_steps`` to ``max_steps`` equations, operands of the text to ``max_operand``, all results to
    ``max_result``, factors to ``max_factor``. A story that cannot have so many equations (shopping: even
    numbers; a week: at most eight) is drawn again.
    """

    min_steps: int = 7
    max_steps: int = 9
    max_operand: int = 9
    max_result: int = 40
    max_factor: int = 4


SHORT = LongDifficulty(min_steps=1, max_steps=4)


class _Dead(Exception):
    """No number fits; the problem is drawn again."""


@dataclass
class _Story:
    """What has been told so far: sentences of the prompt, of the response, and the equations."""

    rng: random.Random
    difficulty: LongDifficulty
    said: list[str]
    written: list[str]
    equations: list[Equation]

    def number(self, low: int, high: int) -> int:
        if low > high:
            raise _Dead
        return self.rng.randint(low, high)

    def compute(self, left: int, operator: str, right: int) -> tuple[str, int]:
        """Append an equation; its text and its result."""
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
        if not 1 <= result <= self.difficulty.max_result:
            raise _Dead
        self.equations.append((left, operator, right, result))
        return f"{left} {operator} {right} = {result}", result


def _operand(story: _Story, value: int, operator: str) -> int:
    """A number of the text for ``value operator number``."""
    bounds = story.difficulty
    if operator == "*":
        return story.number(2, min(bounds.max_factor, bounds.max_result // value))
    room = bounds.max_result - value if operator == "+" else value - 1
    return story.number(2, min(bounds.max_operand, room))


def people(story: _Story, steps: int) -> None:
    """Each person's things are told by those of an earlier one or of two; the last equation joins two of
    them.
    """
    rng, thing = story.rng, story.rng.choice(OBJECTS)
    names = rng.sample(NAMES, steps)
    values = {names[0]: story.number(2, story.difficulty.max_operand)}
    story.said.append(f"{names[0]} has {values[names[0]]} {thing}.")
    story.written.append(f"{names[0]} has {values[names[0]]} {thing}.")
    for name in names[1:]:
        other = rng.choice(list(values)[-3:])
        value, kind = values[other], rng.choice("++--*/&")
        if kind == "&" and len(values) > 1:
            second = rng.choice([n for n in list(values)[-4:] if n != other])
            told, equation = f"as many {thing} as {other} and {second} together", (value, "+", values[second])
        elif kind == "/" and value % 2 == 0:
            told, equation = f"half as many {thing} as {other}", (value, "/", 2)
        elif kind == "*" and 2 * value <= story.difficulty.max_result:
            factor = _operand(story, value, "*")
            told, equation = f"{factor} times as many {thing} as {other}", (value, "*", factor)
        else:
            operator = (
                "+" if value < 8 or (kind == "+" and value <= story.difficulty.max_result // 2) else "-"
            )
            number = _operand(story, value, operator)
            told, equation = (
                f"{number} {'more' if operator == '+' else 'fewer'} {thing} than {other}",
                (value, operator, number),
            )
        text, values[name] = story.compute(*equation)
        story.said.append(f"{name} has {told}.")
        story.written.append(f"{name} has {text} {thing}.")
    if steps == 1:
        raise _Dead
    first, second = rng.sample(names[-3:], 2)
    text, _ = story.compute(values[first], "+", values[second])
    story.said.append(f"How many {thing} do {first} and {second} have together?")
    story.written.append(f"Together they have {text} {thing}.")


def week(story: _Story, steps: int) -> None:
    """A stock that changes day by day, and what it is worth in the end."""
    rng, thing, place = story.rng, story.rng.choice(OBJECTS), story.rng.choice(PLACES)
    if steps > len(DAYS) + 1:
        raise _Dead
    value = story.number(3, 20)
    story.said.append(f"A {place} has {value} {thing}.")
    story.written.append(f"The {place} has {value} {thing}.")
    for day in DAYS[: steps - 1]:
        name, kind = rng.choice(NAMES), rng.choice("++--/")
        if kind == "/" and value % 2 == 0 and value > 4:
            told, operator, number = f"{name} sells half of them", "/", 2
        else:
            operator = (
                "+" if value < 6 or (kind == "+" and value <= story.difficulty.max_result - 10) else "-"
            )
            number = _operand(story, value, operator)
            told = f"{name} {'brings' if operator == '+' else 'takes'} {number} {thing}"
        text, value = story.compute(value, operator, number)
        story.said.append(f"On {day} {told}.")
        story.written.append(f"On {day} it has {text} {thing}.")
    price = story.number(2, min(story.difficulty.max_factor, story.difficulty.max_result // value))
    text, _ = story.compute(value, "*", price)
    story.said.append(f"Now each of the {thing} costs {price} dollars. How much do all of them cost?")
    story.written.append(f"All of them cost {text} dollars.")


def shopping(story: _Story, steps: int) -> None:
    """Several kinds of things at a price each, their sum, and the change."""
    if steps % 2 or steps < 4:
        raise _Dead
    rng, name, bounds = story.rng, story.rng.choice(NAMES), story.difficulty
    things = rng.sample(OBJECTS, steps // 2)
    costs: list[int] = []
    for thing in things:
        count, price = story.number(2, bounds.max_factor), story.number(2, bounds.max_factor)
        text, cost = story.compute(count, "*", price)
        costs.append(cost)
        story.said.append(f"{name} buys {count} {thing} for {price} dollars each.")
        story.written.append(f"The {thing} cost {text} dollars.")
    total = costs[0]
    for thing, cost in zip(things[1:], costs[1:], strict=True):
        text, total = story.compute(total, "+", cost)
        story.written.append(f"With the {thing} it is {text} dollars.")
    paid = story.number(total + 1, bounds.max_result)
    text, _ = story.compute(paid, "-", total)
    story.said.append(f"{name} pays with {paid} dollars. How much change does {name} get?")
    story.written.append(f"{name} gets {text} dollars.")


STORIES: tuple[Callable[[_Story, int], None], ...] = (people, week, shopping)


def draw(rng: random.Random, difficulty: LongDifficulty) -> GsmItem:
    """One problem of any split."""
    while True:
        story = _Story(rng, difficulty, [], [], [])
        try:
            rng.choice(STORIES)(story, rng.randint(difficulty.min_steps, difficulty.max_steps))
        except _Dead:
            continue
        answer = str(story.equations[-1][3])
        response = " " + " ".join(story.written) + f"\n#### {answer}"
        key = key_of(story.equations).replace("gsm:", "gsm-long:")
        return GsmItem(f"Q: {' '.join(story.said)}\nA:", response, answer, key)


def generate(rng: random.Random, split: Split, difficulty: LongDifficulty | None = None) -> GsmItem:
    """Draw one problem of ``split`` (rejection on the key's hash)."""
    while True:
        item = draw(rng, difficulty or LongDifficulty())
        if split_of(item.key) == split:
            return item


def drill(rng: random.Random, difficulty: LongDifficulty | None = None, count: int = 6) -> GsmItem:
    """A sheet of independent bare equations, for training only; no result is an operand of the next
    equation.
    """
    difficulty = difficulty or LongDifficulty()
    story = _Story(rng, difficulty, [], [], [])
    while len(story.equations) < count:
        left = rng.randint(2, difficulty.max_result)
        operator = rng.choice("++++----*/")
        right = (
            2
            if operator == "/"
            else rng.randint(2, rng.choice((difficulty.max_operand, difficulty.max_result)))
        )
        if (operator == "/" and left % 2) or (operator == "*" and right > difficulty.max_factor):
            continue
        if story.equations and story.equations[-1][3] in (left, right):
            continue
        try:
            story.written.append(story.compute(left, operator, right)[0])
        except _Dead:
            continue
        story.said.append(f"{left} {operator} {right}")
    key = "drill:" + ", ".join(story.said)
    answer = str(story.equations[-1][3])
    return GsmItem(
        f"Q: {', '.join(story.said)}\nA:", f" {', '.join(story.written)}\n#### {answer}", answer, key
    )


def easier(steps: int) -> LongDifficulty:
    """The suite's numbers with at most ``steps`` equations, for the start of a training."""
    return replace(SHORT, max_steps=steps)
