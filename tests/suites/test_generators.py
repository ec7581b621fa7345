"""The embedded suites: frozen bytes, splits that cannot leak, and items that mean what they say."""

from __future__ import annotations

import hashlib
import itertools
import random
import re

import pytest

from suites.generators import SPLITS, Split, code, frozen, gsm, split_of


def test_regenerating_gives_the_committed_bytes() -> None:
    lines = (frozen.DATA / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    assert len(sums) == len(frozen.SETS)
    for suite, split in frozen.SETS:
        text = frozen.render(suite, split)
        name = frozen.file_name(suite, split)
        assert (frozen.DATA / name).read_text() == text, (
            f"{name} changed: a new version of the suite is needed"
        )
        assert hashlib.sha256(text.encode()).hexdigest() == sums[name]


@pytest.mark.parametrize("suite", list(frozen.DRAWS))
def test_splits_share_no_problem(suite: str) -> None:
    rng = random.Random(7)
    train = {frozen.DRAWS[suite](rng, "train").key for _ in range(3000 if suite in ("gsm", "code") else 300)}
    held_out: set[str] = set()
    for split in ("validation", "test"):
        keys = [row["key"] for row in frozen.load(suite, split)]
        assert len(keys) == len(set(keys)) == frozen.SIZE
        assert all(split_of(key) == split for key in keys)
        assert not held_out & set(keys)
        held_out |= set(keys)
    assert not train & held_out


def test_drills_never_chain_two_equations() -> None:
    rng = random.Random(3)
    for _ in range(500):
        lines = gsm.drill(rng).response.strip().splitlines()[:-1]
        parts = [[int(number) for number in re.split(r"[-+*/=]", line)] for line in lines]
        assert all(first[2] not in second[:2] for first, second in itertools.pairwise(parts))


def test_wording_and_names_are_no_part_of_a_key() -> None:
    assert gsm.key_of([(5, "+", 3, 8), (8, "-", 2, 6)]) == gsm.key_of([(3, "+", 5, 8), (8, "-", 2, 6)])
    assert gsm.key_of([(5, "-", 3, 2), (2, "+", 2, 4)]) != gsm.key_of([(5, "+", 3, 8), (8, "+", 2, 10)])


@pytest.mark.parametrize("split", SPLITS)
def test_gsm_chains_are_right_and_within_bounds(split: Split) -> None:
    rng, bounds = random.Random(11), gsm.Difficulty()
    for _ in range(300):
        item = gsm.generate(rng, split)
        assert item.prompt.startswith("Q: ")
        assert item.prompt.endswith("\nA:")
        assert item.response.startswith(" ")
        *equations, last = item.response.strip().splitlines()
        assert bounds.min_steps <= len(equations) <= bounds.max_steps
        for equation in equations:
            expression, result = equation.split("=")
            assert eval(expression) == int(result)
            assert int(result) <= bounds.max_result
        assert last == f"#### {item.answer}"
        assert gsm.is_correct(item.response, item.answer)
        assert not gsm.is_correct(item.response[:-1] + "x", item.answer)


def test_gsm_texts_mention_every_number() -> None:
    for scenario in gsm.SCENARIOS:
        for text in scenario.texts:
            assert set(scenario.letters) <= set(re.findall(r"\{(\w)\}", text)), text


def test_code_responses_pass_their_tests_and_wrong_ones_fail() -> None:
    failing = 0
    for row in frozen.load("code", "test"):
        namespace: dict[str, object] = {}
        exec(code.program(row["prompt"], row["response"], row["tests"]), namespace)
        try:
            exec(code.program(row["prompt"], "    return None", row["tests"]), {})
        except (AssertionError, TypeError):
            failing += 1
    assert failing == frozen.SIZE


def test_difficulty_is_a_dial() -> None:
    easy = gsm.Difficulty(max_operand=4, max_total=8, max_result=12, max_product=12, max_steps=2)
    rng = random.Random(0)
    for _ in range(100):
        item = gsm.generate(rng, "train", easy)
        assert max(int(number) for number in re.findall(r"\d+", item.response)) <= 12
