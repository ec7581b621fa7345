"""The long and the parallel suites: items that mean what they say, lengths, graders, and the line of an ideal
decoder.
"""

from __future__ import annotations

import itertools
import random
import re
from math import factorial

import numpy as np
import pytest

from methods.training.data.corpus_long import LongMix, items, train_tokenizer
from reports.ideal import IDEAL, WORDS
from suites.generators import SPLITS, Split, code_long, frozen, gsm, gsm_long, parallel
from suites.suite import load_suite


@pytest.mark.parametrize("split", SPLITS)
def test_long_chains_are_right_and_within_bounds(split: Split) -> None:
    rng, bounds = random.Random(11), gsm_long.LongDifficulty()
    for _ in range(100):
        item = gsm_long.generate(rng, split)
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", item.response)
        assert bounds.min_steps <= len(equations) <= bounds.max_steps
        for left, operator, right, result in equations:
            assert eval(f"{left} {operator} {right}") == int(result) <= bounds.max_result
        assert item.response.endswith(f"\n#### {equations[-1][3]}")
        assert gsm.is_correct(item.response, item.answer)
        assert item.key.count(";") + 1 == len(equations)
        starts = {
            number for sentence in item.prompt.split(".") for number in re.findall(r"\d+", sentence)
        } | {"2"}
        known = set(starts)
        for left, _, right, result in equations:
            assert {left, right} <= known, "an operand that neither the text nor an earlier step gives"
            known.add(result)


def test_long_drills_never_chain_two_equations() -> None:
    rng = random.Random(3)
    for _ in range(200):
        equations = [
            re.findall(r"\d+", part) for part in gsm_long.drill(rng).response.split("\n")[0].split(",")
        ]
        assert all(first[2] not in second[:2] for first, second in itertools.pairwise(equations))


def run(source: str) -> bool:
    try:
        exec(source, {})
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("split", SPLITS)
def test_functions_pass_their_tests_and_no_branch_can_be_dropped(split: Split) -> None:
    rng = random.Random(5)
    for _ in range(25):
        item = code_long.generate(rng, split)
        tests = "\n\n" + "\n".join(item.tests)
        assert run(item.prompt + item.response + tests)
        lines = item.response.split("\n")
        assert 5 <= len(lines) <= 20
        ladder = [i for i, line in enumerate(lines) if line.lstrip().startswith(("if", "elif"))]
        assert len(ladder) >= 4
        last = max(ladder)
        # The last branch returns something else: tests reach it.
        wrong = [
            *lines[: last + 1],
            re.sub(r"\S.*", "raise AssertionError", lines[last + 1]),
            *lines[last + 2 :],
        ]
        assert not run(item.prompt + "\n".join(wrong) + tests)


def test_free_choices_of_a_function_are_no_part_of_its_key() -> None:
    rng = random.Random(0)
    by_key: dict[str, set[str]] = {}
    tiny = code_long.LongCodeDifficulty(1, 1, 0)
    for _ in range(4000):
        item = code_long.generate(rng, "train", tiny, with_tests=False)
        by_key.setdefault(item.key, set()).add(item.response)
    assert max(map(len, by_key.values())) > 3
    for responses in by_key.values():
        assert len({tuple(sorted(re.findall(r"\d+|%|==|<|return", text))) for text in responses}) == 1


def test_lengths_are_those_of_the_suites() -> None:
    tokenizer = train_tokenizer(0, count=1500)
    for suite, canvas in (
        ("long-gsm", 256),
        ("long-code", 256),
        ("parallel-copy", 16),
        ("parallel-schedule", 16),
    ):
        rows = frozen.load(suite, "test")
        prompts = [len(tokenizer.encode(row["prompt"]).ids) for row in rows]
        answers = [len(tokenizer.encode(row["response"]).ids) for row in rows]
        assert max(answers) < canvas == load_suite(frozen.full_name(suite)).canvas
        if canvas == 256:
            assert 60 <= np.median(prompts) <= max(prompts) <= 300
            assert 60 <= np.median(answers) <= max(answers) <= 200


def test_short_items_are_shorter() -> None:
    full, short = (sum(len(p + r) for p, r in items(1, 300, LongMix(short=flag))) for flag in (False, True))
    assert short < 0.75 * full


@pytest.mark.parametrize("task", parallel.TASKS)
def test_parallel_answers_are_accepted_and_damaged_ones_are_not(task: parallel.Task) -> None:
    for row in frozen.load(f"parallel-{task}", "test")[:64]:
        words = row["response"].split()
        assert parallel.is_correct(row, row["response"])
        assert not parallel.is_correct(row, " ".join(words[:-1]))
        assert not parallel.is_correct(row, " ".join([*words, words[0]]))
        assert not parallel.is_correct(row, " ".join([words[1], *words[1:]]))


def test_any_right_answer_counts() -> None:
    shuffle, replace, schedule = (
        frozen.load(f"parallel-{task}", "test")[0] for task in ("shuffle", "replace", "schedule")
    )
    assert parallel.is_correct(shuffle, " ".join(sorted(shuffle["words"])))
    for place in range(len(replace["words"])):
        assert parallel.is_correct(
            replace, " ".join([*replace["words"][:place], replace["new"], *replace["words"][place + 1 :]])
        )
    assert not parallel.is_correct(replace, " ".join(replace["words"]))
    fixed = {place - 1 for place in schedule["given"] if place}
    answer = schedule["response"].split()
    free = [place for place in range(len(answer)) if place not in fixed]
    answer[free[0]], answer[free[1]] = answer[free[1]], answer[free[0]]
    assert parallel.is_correct(schedule, " ".join(answer))
    place = min(fixed)
    answer[free[0]], answer[place] = answer[place], answer[free[0]]
    assert not parallel.is_correct(schedule, " ".join(answer))


def test_suite_grades_with_the_rule() -> None:
    suite = load_suite("parallel-shuffle")
    doc = suite.docs(limit=1)[0][1]
    assert suite.grade(doc, " " + " ".join(sorted(doc["words"]))).correct
    assert not suite.grade(doc, " " + " ".join([doc["words"][0]] * len(doc["words"]))).correct


def simulate(
    task: parallel.Task, size: int, per_step: int, given: tuple[int, ...], rng: np.random.Generator
) -> bool:
    """One answer of the ideal factorised decoder, drawn word by word."""
    answer: list[int] = []
    while len(answer) < size:
        count, seen = min(per_step, size - len(answer)), tuple(answer)
        for place in range(len(answer), len(answer) + count):
            if task == "replace":
                done = -1 in seen
                chance = 0.0 if done else 1 / (size - len(seen))
                answer.append(-1 if rng.random() < chance else place)
            elif place + 1 in given:
                answer.append(place)
            else:
                answer.append(
                    int(
                        rng.choice(
                            [word for word in range(size) if word not in seen and word + 1 not in given]
                        )
                    )
                )
    return answer.count(-1) == 1 if task == "replace" else len(set(answer)) == size


@pytest.mark.parametrize(("task", "given"), [("shuffle", ()), ("replace", ()), ("schedule", (2, 5))])
@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_ideal_accuracy_is_that_of_a_simulation(
    task: parallel.Task, given: tuple[int, ...], per_step: int
) -> None:
    rng = np.random.default_rng(0)
    rate = np.mean([simulate(task, 6, per_step, given, rng) for _ in range(3000)])
    assert parallel.ideal_accuracy(task, 6, per_step, given) == pytest.approx(
        rate, abs=0.035
    )  # four standard errors


def test_ideal_accuracy_at_its_ends() -> None:
    assert all(parallel.ideal_accuracy(task, 9, 1, ()) == pytest.approx(1) for task in parallel.TASKS)
    assert parallel.ideal_accuracy("shuffle", 7, 7) == pytest.approx(factorial(7) / 7**7)
    assert parallel.ideal_accuracy("schedule", 3, 3, (1, 2, 3)) == 1
    assert all(parallel.ideal_accuracy(task, 8, 8) == 1 for task in parallel.ONE_ANSWER)
    with pytest.raises(ValueError, match="at least one"):
        parallel.ideal_accuracy("shuffle", 8, 0)


def test_reference_line_falls_with_the_tokens_per_pass() -> None:
    rows = frozen.load("parallel-shuffle", "test")
    line = [parallel.reference_line(rows, per_step) for per_step in (1, 2, 4, 8)]
    assert line[0] == pytest.approx(1)
    assert all(first > second for first, second in itertools.pairwise(line))


def test_the_line_in_plots_is_that_of_the_frozen_sets() -> None:
    for suite, shares in IDEAL.items():
        rows = frozen.load(suite, "test")
        assert shares == pytest.approx([parallel.reference_line(rows, words) for words in WORDS], abs=6e-4)
    assert set(IDEAL) == {f"parallel-{task}" for task in parallel.TASKS}
