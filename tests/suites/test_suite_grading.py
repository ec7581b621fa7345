"""Grading: repairs do what they say, reference answers reach the ceiling, and every way of grading agrees."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness.sandbox import launch
from suites import answers as math_answers
from suites.code import humaneval_check, mbpp_check, mbpp_names, mbpp_plus_check, pass_at_k
from suites.code import mbpp as mbpp_scorer
from suites.code import mbpp_plus as mbpp_plus_scorer
from suites.extract import completion_program, whole_program
from suites.suite import load_suite

needs_jail = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")


@needs_jail
@pytest.mark.parametrize("name", ["humaneval", "humaneval_instruct"])
def test_humaneval_reference_solutions_reach_the_ceiling(name: str) -> None:
    suite = load_suite(name)
    assert sum(bool(suite.grade(doc, doc["canonical_solution"]).correct) for _, doc in suite.docs()) == 164


@needs_jail
def test_nano_responses_reach_the_ceiling_and_nothing_else_does() -> None:
    for name in ("nano-gsm", "nano-code"):
        suite = load_suite(name)
        assert all(suite.grade(doc, doc["response"]).correct for _, doc in suite.docs(limit=64))
        assert not any(suite.grade(doc, "").correct for _, doc in suite.docs(limit=8))


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        (" 4-2=2\n#### 14", True),
        ("#### 14.", True),
        ("#### 1,4", True),
        ("14", False),
        ("#### 15\n#### 14", False),
        ("#### 140", False),
    ],
)
def test_nano_gsm_takes_the_number_after_the_mark(text: str, correct: bool) -> None:
    assert math_answers.nano_gsm({"answer": "14"}, [text])["exact_match"] == float(correct)


PROMPT = 'import math\n\n\ndef area(r):\n    """Area of a disc."""\n'


BODY = "    return math.pi * r**2\n"


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"```python\n{PROMPT}{BODY}```\nThis works.",
        f"Here you are:\n```\ndef area(r):\n{BODY}```",
        f"```python\n{BODY}```",
        f"def area(r):\n{BODY}",
        "return math.pi * r**2",
        f"{BODY}```\n\nSome words.",
    ],
    ids=[
        "completion",
        "fenced whole",
        "fenced, no import",
        "fenced body",
        "whole function",
        "body without indent",
        "closing fence",
    ],
)
def test_programs_are_found_in_the_answers_of_all_kinds_of_models(text: str) -> None:
    program = completion_program(PROMPT, text, "area", PROMPT + text)
    space: dict[str, Any] = {}
    exec(program, space)
    assert space["area"](1) == pytest.approx(3.14159, abs=1e-4)


def test_text_that_stock_can_run_is_run_as_stock_does() -> None:
    stock = PROMPT + BODY
    assert completion_program(PROMPT, BODY, "area", stock) == stock
    assert completion_program(PROMPT, "%%%", "area", PROMPT + "%%%") == PROMPT + "%%%"


MBPP_DOC = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


def test_repair_mbpp_instruct_keeps_the_first_word_of_bare_code() -> None:
    text = "def double(x):\n    return 2 * x\n```\n"
    assert whole_program(text, "double", text.split("```", 1)[0]) == "def double(x):\n    return 2 * x\n"


@needs_jail
def test_repair_mbpp_set_up_code_runs() -> None:
    doc = {
        **MBPP_DOC,
        "code": "class Node:\n    def __init__(self, v):\n        self.v = v\ndef value(n):\n    return n.v",
        "test_setup_code": "root = Node(3)\r\nother = Node(4)",
        "test_list": [
            "assert value(root) == 3",
            "assert value(other) == 4",
            "assert value(root) != value(other)",
        ],
    }
    assert mbpp_check(doc, doc["code"]).fixtures
    assert mbpp_scorer.verdict(doc, doc["code"]).passed
    assert not mbpp_scorer.verdict(doc, doc["code"].replace("return n.v", "return 3")).passed


@needs_jail
def test_mbpp_function_named_like_a_builtin_comes_from_the_program() -> None:
    doc = {
        **MBPP_DOC,
        "code": "def sum(a, b):\n    return a + b + 0",
        "test_list": ["assert sum(10, 15) == 25"],
    }
    assert mbpp_names(doc) == ("sum",)
    assert mbpp_scorer.verdict(doc, doc["code"]).passed
    assert not mbpp_scorer.verdict(doc, "def sum(a, b):\n    return 24").passed
    shadow = "def set(*a):\n    return 0\ndef double(x):\n    return [x]"
    assert not mbpp_scorer.verdict(
        {**MBPP_DOC, "test_list": ["assert set(double(2)) == set([4])"]}, shadow
    ).passed


PLUS_TEST = """import numpy as np
from math import inf

def is_floats(x) -> bool:
    return isinstance(x, float)


def assertion(out, exp, atol):
    assert out == exp


inputs = [[2], [0], [-inf], [5]]
results = [4, 0, -inf, 10]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(double(*inp), exp, 0)
"""


@needs_jail
def test_repair_plus_tests_really_run() -> None:
    doc = {**MBPP_DOC, "test": PLUS_TEST}
    only_the_base_tests = "def double(x):\n    return {2: 4, 0: 0, -1: -2}[x]"
    assert mbpp_scorer.verdict(doc, only_the_base_tests).passed
    assert not mbpp_plus_scorer.verdict(doc, only_the_base_tests).passed
    assert mbpp_plus_scorer.verdict(doc, doc["code"]).passed
    assert len(mbpp_plus_check(doc, doc["code"]).cases.inputs) == 4  # type: ignore[union-attr]


@needs_jail
def test_repair_time_limit_exceeds_three_seconds() -> None:
    slow = "import time\ndef double(x):\n    time.sleep(1.1)\n    return 2 * x"
    assert mbpp_scorer.verdict(MBPP_DOC, slow).passed
    assert mbpp_scorer.limits.seconds >= 10


@needs_jail
def test_humaneval_helpers_come_from_the_prompt() -> None:
    suite = load_suite("humaneval")
    doc = dict(suite.docs())[38]  # decode_cyclic, tested against the prompt's encode_cyclic
    cheat = "import random\ndef encode_cyclic(s):\n    return s\ndef decode_cyclic(s):\n    return s\n"
    assert suite.scorer is not None
    assert not suite.scorer.verdict(doc, cheat).passed
    assert "encode_cyclic" in humaneval_check(doc, cheat).setup


class Parrot:
    """An lm-eval model that answers every second document with its reference solution."""

    def __new__(cls, references: dict[str, str]) -> Any:
        from lm_eval.api.model import LM

        class Model(LM):
            def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
                return [references[request.args[0]] for request in requests]

            def loglikelihood(self, requests: list[Any]) -> list[Any]:
                raise NotImplementedError

            def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
                raise NotImplementedError

        return Model()


@needs_jail
@pytest.mark.parametrize(
    ("name", "field"),
    [("humaneval", "canonical_solution"), ("nano-gsm", "response"), ("nano-code", "response")],
)
def test_scores_equal_lm_evals_own(name: str, field: str) -> None:
    from lm_eval.evaluator import evaluate

    suite = load_suite(name)
    docs = suite.docs(limit=12)
    texts = {suite.prompt(doc): doc[field] if doc_id % 2 else "    return None" for doc_id, doc in docs}
    ours = [suite.grade(doc, texts[suite.prompt(doc)]).correct for _, doc in docs]
    result = evaluate(
        lm=Parrot(texts),
        task_dict={name: suite.task},
        limit=12,
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,
        log_samples=False,
    )
    assert result is not None
    assert "results" in result
    assert (
        result["results"][name][",".join((suite.headline[0], suite.headline[1] or "none"))]
        == sum(map(bool, ours)) / 12
    )
    assert any(ours)
    assert not all(ours)


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    assert pass_at_k(10, 0, 1) == 0
    assert pass_at_k(10, 10, 10) == 1
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)
    assert pass_at_k(200, 13, 100) == pytest.approx(0.99992, abs=1e-4)
    with pytest.raises(ValueError, match="at least"):
        pass_at_k(2, 1, 5)


def test_formulas_are_graded_the_same_in_every_thread() -> None:
    doc = {"problem": "", "solution": "So it is $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}"}
    text = ["So it is 0.5.\nFinal Answer: The final answer is $\\frac{2}{4}$. I hope it is correct."]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(math_answers.minerva(doc, text)))
    thread.start()
    thread.join()
    assert found == [math_answers.minerva(doc, text)]
    assert found[0]["exact_match"] == 1


@needs_jail
def test_verdicts_equal_plain_execution_on_faulty_programs() -> None:
    from harness.sandbox import open_jail
    from tests.tools.stock_agreement import compare

    with open_jail() as jail:
        pairs = compare("humaneval", jail, mutants=1, limit=30)
    assert [pair for pair in pairs if pair.ours != pair.stock] == []
    assert 30 <= sum(pair.ours for pair in pairs) < len(pairs)
