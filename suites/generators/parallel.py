"""The parallel suites: short lists whose answers follow closed rules, for measuring how many tokens can be
written at once.

copy, reverse and sort have one right answer; replace (one word, any place), shuffle (any order, nothing
twice) and schedule (free places of a plan) have many, and a decoder that writes several words at once without
looking at one of them in the light of the others mixes two of them. The tasks follow the idea of
ParallelBench (Kang et al. 2025); the items are our own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Literal, get_args

from suites.generators import Split, split_of
from suites.generators.gsm_scenarios import NAMES, OBJECTS

Task = Literal["copy", "reverse", "sort", "replace", "shuffle", "schedule"]
TASKS: tuple[Task, ...] = get_args(Task)
ONE_ANSWER: tuple[Task, ...] = ("copy", "reverse", "sort")


@dataclass(frozen=True)
class ParallelDifficulty:
    """Lists of ``shortest`` to ``longest`` words."""

    shortest: int = 6
    longest: int = 10


SHORT = ParallelDifficulty(2, 5)


@dataclass(frozen=True)
class ParallelItem:
    """``words``: the list of the prompt; ``new``: the word that replaces one of them; ``given``: the places,
    counted from 1, that a schedule's prompt gives to the words (0: free)."""

    prompt: str
    response: str
    task: Task
    words: list[str]
    new: str
    given: list[int]
    key: str


def _schedule(rng: random.Random, words: list[str]) -> tuple[str, list[str], list[int]]:
    order = rng.sample(words, len(words))
    fixed = rng.sample(words, max(1, len(words) // 4))
    given = [order.index(word) + 1 if word in fixed else 0 for word in words]
    told = " ".join(f"{word} is {place}." for word, place in zip(words, given, strict=True) if place)
    return f"Schedule: {' '.join(words)}. {told}", order, given


def draw(rng: random.Random, task: Task, difficulty: ParallelDifficulty) -> ParallelItem:
    """One item of any split. Its key is the task and the set of words."""
    pool: tuple[str, ...] = NAMES if task == "schedule" else OBJECTS
    words: list[str] = rng.sample(
        pool, rng.randint(difficulty.shortest, difficulty.longest) + (task == "replace")
    )
    new, given = "", [0] * len(words)
    told, answer = f"{task.capitalize()}: {' '.join(words)}", list(words)
    if task == "reverse":
        answer.reverse()
    elif task == "sort":
        answer.sort()
    elif task == "shuffle":
        rng.shuffle(answer)
    elif task == "schedule":
        told, answer, given = _schedule(rng, words)
    elif task == "replace":
        new, words = words[0], words[1:]
        answer, given = list(words), given[1:]
        answer[rng.randrange(len(words))] = new
        told = f"Replace one by {new}: {' '.join(words)}"
    return ParallelItem(
        f"{told}\nA:",
        " " + " ".join(answer),
        task,
        words,
        new,
        given,
        f"parallel-{task}:{' '.join(sorted(words))}",
    )


def generate(
    rng: random.Random, split: Split, task: Task, difficulty: ParallelDifficulty | None = None
) -> ParallelItem:
    """Draw one item of ``split`` (rejection on the key's hash)."""
    while True:
        item = draw(rng, task, difficulty or ParallelDifficulty())
        if split_of(item.key) == split:
            return item


def is_correct(item: dict[str, Any], response: str) -> bool:
    """Whether ``response`` is one of the right answers of a stored item: words apart by white space, nothing
    else.
    """
    task, words, answer = item["task"], list(item["words"]), response.split()
    if task in ONE_ANSWER:
        return answer == {"copy": words, "reverse": words[::-1], "sort": sorted(words)}[task]
    if task == "replace":
        return len(answer) == len(words) and [a for a, w in zip(answer, words, strict=True) if a != w] == [
            item["new"]
        ]
    places = zip(words, item["given"], strict=True)
    return sorted(answer) == sorted(words) and all(
        answer[place - 1] == word for word, place in places if place
    )


def ideal_accuracy(task: Task, size: int, per_step: int, given: tuple[int, ...] = ()) -> float:
    """Share of right answers of an ideal factorised decoder that writes ``per_step`` words of ``size`` per
    forward pass.

    Assumptions: it writes left to right; it knows the exact distribution of every word given the prompt and
    all words of earlier passes, where all right answers are equally likely; it draws the words of one pass
    independently from these marginals (temperature 1; ties of a greedy decoder broken at random amount to the
    same for shuffle and schedule). ``given``: the places of a schedule that the prompt fills, from 1. Only
    words are counted: each is one token and the end of the text is free.

    - copy, reverse, sort: one right answer, so every marginal is certain: 1.
    - shuffle: r words are left and k are written: all are different with probability r! / ((r - k)! r^k); the
      product over the passes.
    - schedule: the same, r counting the free names and k the free places of the pass.
    - replace: r places are left, k are written, nothing is replaced so far. Each place takes the new word
      with probability 1/r, so A(r) = (1 - 1/r)^k A(r - k) + k (1/r) (1 - 1/r)^(k - 1), A(0) = 0: once it is
      written the rest is certain.

    Raises ValueError for sizes below 1.
    """
    if size < 1 or per_step < 1:
        raise ValueError(
            f"an answer has at least one word and a pass writes at least one, got size {size} and per_step "
            f"{per_step}"
        )
    if task in ONE_ANSWER:
        return 1.0
    if task == "replace":
        return _one_of(size, per_step)
    free = [place not in given for place in range(1, size + 1)]
    left, total = sum(free), 1.0
    for start in range(0, size, per_step):
        count = sum(free[start : start + per_step])
        total *= prod((left - i) / left for i in range(count))
        left -= count
    return total


@cache
def _one_of(left: int, per_step: int) -> float:
    if left == 0:
        return 0.0
    count, stay = min(per_step, left), 1 - 1 / left
    return stay**count * _one_of(left - count, per_step) + count / left * stay ** (count - 1)


def reference_line(items: list[dict[str, Any]], per_step: int) -> float:
    """Mean of ``ideal_accuracy`` over the stored items of a suite."""
    values = [
        ideal_accuracy(item["task"], len(item["words"]), per_step, tuple(filter(None, item["given"])))
        for item in items
    ]
    return sum(values) / len(values)
