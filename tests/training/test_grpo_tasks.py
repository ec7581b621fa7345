"""Problems and rewards: what may be trained on, how answers are graded, and a reward process that dies, hangs
or floods.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from methods.training.data.overlap import OverlapError
from methods.training.grpo.options import OptionsError, load_options
from methods.training.grpo.reward_client import RewardError, RewardOptions, RewardProcess
from methods.training.grpo.rewards import math_reward, program_of
from methods.training.grpo.tasks import FileTasks, GeneratedTasks, Problem, TaskError, load_tasks, read_tasks
from suites.generators import frozen, gsm, split_of

ADD = Problem(
    "def add(a, b):\n",
    tests=("assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(2, 2) == 4"),
    entry_point="add",
)


def written(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suite", ["nano-gsm", "nano-code"])
def test_generated_problems_are_training_problems_and_a_function_of_seed_and_step(suite: str) -> None:
    source = GeneratedTasks(suite, 3)
    held_out = {row["prompt"] for split in ("validation", "test") for row in frozen.load(source.kind, split)}
    tasks = [task for step in range(20) for task in source.draw(step, 8)]
    assert tasks == [task for step in range(20) for task in GeneratedTasks(suite, 3).draw(step, 8)]
    assert not held_out & {task.prompt for task in tasks}
    assert tasks[:8] != GeneratedTasks(suite, 4).draw(0, 8)


def test_a_generator_that_leaks_a_held_out_problem_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    row = frozen.load("gsm", "test")[0]
    assert split_of(row["key"]) == "test"
    leaked = gsm.GsmItem(row["prompt"], row["response"], row["answer"], row["key"])
    monkeypatch.setattr(gsm, "generate", lambda *_: leaked)
    with pytest.raises(TaskError, match="is one of the held-out problems"):
        GeneratedTasks("nano-gsm", 0).draw(0, 1)


def test_evaluation_suites_are_refused() -> None:
    with pytest.raises(TaskError, match="humaneval is a test suite: training on it is refused"):
        load_tasks("humaneval", 0)


def test_a_file_with_a_test_problem_is_refused_whatever_stands_around_it(tmp_path: Path) -> None:
    stolen = frozen.load("gsm", "test")[17]["prompt"]
    fresh = {"prompt": "What is seven plus two, if you count pears and plums alike?", "answer": "9"}
    path = written(
        tmp_path / "mine.jsonl", fresh, {"prompt": f"Please solve.\n\n{stolen.upper()}", "answer": "1"}
    )
    with pytest.raises(
        OverlapError,
        match=r"1 of 2 problems .*mine.jsonl are in a test suite, first problem 2 = nano-gsm document 17",
    ):
        load_tasks(str(path), 0)
    source = load_tasks(str(written(tmp_path / "own.jsonl", fresh)), 0)
    assert source.draw(0, 1)[0].answer == "9"


@pytest.mark.parametrize(
    ("row", "message"),
    [({"answer": "1"}, "line 1 is no problem with a prompt"), ({"prompt": "x"}, "needs either an answer, "
                                                                                "or tests"),
     ({"prompt": "x", "tests": ["assert f() == 1"]}, "and an entry_point")],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_tasks(written(tmp_path / "bad.jsonl", row))


def test_file_problems_come_once_per_epoch_in_a_new_order() -> None:
    source = FileTasks([Problem(str(index), answer="1") for index in range(6)], 0)
    first = [task.prompt for step in range(3) for task in source.draw(step, 2)]
    second = [task.prompt for step in range(3, 6) for task in source.draw(step, 2)]
    assert sorted(first) == sorted(second) == [str(index) for index in range(6)]
    assert first != second


def test_options_name_the_flag_to_change(tmp_path: Path) -> None:
    places = {"output": tmp_path, "work": tmp_path}
    with pytest.raises(OptionsError, match="--preset tiny is unknown"):
        load_options("tiny", "nano-gsm", **places)
    with pytest.raises(OptionsError, match="do not divide among --workers 3"):
        load_options("nano", "nano-gsm", workers=3, **places)
    merged = load_options("nano", "nano-gsm", settings={"alg": "entropy"}, **places).settings
    assert merged == {
        "cache": "none",
        "block_length": 48,
        "threshold": 0.7,
        "temperature": 1.0,
        "alg": "entropy",
    }
    other = load_options(
        "nano", "nano-gsm", method="vanilla", settings={"tokens_per_step": "4"}, **places
    ).settings
    assert other == {"temperature": 1.0, "tokens_per_step": "4"}


def test_formats() -> None:
    assert program_of("def f():\n", "    return 1", "completion") == ("def f():\n    return 1", 1.0)
    assert program_of("def f():\n", "    return (", "completion")[1] == 0.0
    assert program_of("", "Sure.\n```python\nx = 1\n```\n", "fenced") == ("x = 1\n", 1.0)
    assert program_of("", "```python\nx = (\n```", "fenced")[1] == 0.5
    assert program_of("", "x = 1", "fenced")[1] == 0.0


def test_final_answers() -> None:
    task = {"answer": "1,200"}
    assert math_reward(task, " 3*4=12\n#### 1200").components == {"answer": 1.0, "format": 1.0}
    assert math_reward(task, "#### 12").components == {"answer": 0.0, "format": 1.0}
    assert math_reward(task, "1200").components == {"answer": 0.0, "format": 0.0}
    assert math_reward({"answer": "1/2"}, "so \\boxed{\\frac{2}{4}}").components["answer"] == 1.0


def test_programs_earn_the_share_of_tests_that_hold_and_hostile_ones_nothing() -> None:
    texts = [
        "    return a + b",
        "    return 0",
        "    return a +",
        "    while True: pass",
        "    import os; os._exit(0)",
        "    return 'x' * 10**12",
        "    print('y' * 10**9)\n    return 3",
        None,
    ]
    with RewardProcess(RewardOptions(cpu_seconds=0.5, seconds=5.0)) as process:
        found = process.grade([(ADD, text) for text in texts])
        assert process.starts == 1
    assert [round(reward.components["tests"], 3) for reward in found] == [
        1.0,
        0.333,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ]
    assert [reward.status for reward in found[:4]] == ["passed", "failed", "no_answer", "timeout"]
    assert found[-1].status == "no_answer"


OWN = """
import os, sys, time
def reward(task, text):
    if text == "die":
        os._exit(1)
    if text == "hang":
        time.sleep(60)
    if text == "noise":
        print("x" * 1_000_000)
    return {"flood" * 10_000 if text == "flood" else "length": float(len(text))}
"""


def test_a_reward_process_that_dies_hangs_or_floods_is_replaced_and_the_answer_recorded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    jobs: list[tuple[Problem, str | None]] = [
        (ADD, text) for text in ("ab", "die", "abc", "hang", "noise", "flood", "abcd", "ab")
    ]
    with RewardProcess(RewardOptions(file=file, answer_seconds=2.0)) as process:
        found = process.grade(jobs)
    assert [reward.status for reward in found] == [
        "passed", "reward_died", "passed", "reward_hung", "passed", "reward_flooded", "passed", "passed",
    ]  # fmt: skip
    assert [reward.components.get("length", 0.0) for reward in found] == [
        2.0,
        0.0,
        3.0,
        0.0,
        5.0,
        0.0,
        4.0,
        2.0,
    ]
    assert process.starts == 7


def test_the_reward_process_starts_without_torch() -> None:
    code = "import sys, methods.training.grpo.reward_server; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reward_process_killed_from_outside_costs_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    with RewardProcess(RewardOptions(file=file)) as process:
        process.grade([(ADD, "ab")])
        assert process._process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
        assert process.grade([(ADD, "abc")])[0].components == {"length": 3.0}


def test_a_reward_file_that_does_not_load_says_why(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("import nothing_of_the_kind\n")
    with (
        RewardProcess(RewardOptions(file=file)) as process,
        pytest.raises(RewardError, match="No module named 'nothing_of_the_kind'"),
    ):
        process.grade([(ADD, "ab")])
