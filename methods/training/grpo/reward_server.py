"""The reward process: JSON lines in, JSON lines out. Started by reward_client as
``python -m methods.training.grpo.reward_server``.

A process of its own, without torch and the model: verdicts do not depend on the trainer's memory, and the
trainer survives it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from harness.sandbox import Limits, open_jail
from methods.training.grpo.rewards import Reward, reward_of

Line = dict[str, Any]
Grade = Callable[[Line], Reward]


def own_reward(path: Path) -> Grade:
    """The function ``reward(task, text) -> {component: value}`` of a Python file."""
    spec = importlib.util.spec_from_file_location("own_reward", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda line: Reward(
        {name: float(value) for name, value in module.reward(line["task"], line["text"]).items()}, "passed"
    )


def _graded(grade: Grade, line: Line) -> str:
    reward = grade(line)
    return json.dumps({"components": reward.components, "status": reward.status})


def serve(settings: Line, requests: Any, answers: Any) -> None:
    """Answer one line per job, in order; a request is a list of jobs (task, text)."""
    limits = Limits(seconds=settings["seconds"], cpu_seconds=settings["cpu_seconds"])
    with ExitStack() as stack:
        if settings["file"]:
            grade = own_reward(Path(settings["file"]))
        else:
            code = settings["code"]
            jail = (
                stack.enter_context(
                    open_jail(limits, settings["workers"], allow_unsafe=settings["allow_unsafe"])
                )
                if code
                else None
            )
            grade = lambda line: reward_of(line["task"], line["text"], settings["form"], jail, limits)  # noqa: E731
        # math_verify's time limits are alarm signals, which exist in the main thread only.
        pool = (
            stack.enter_context(ThreadPoolExecutor(settings["workers"]))
            if settings["code"] and not settings["file"]
            else None
        )
        answers.write("ready\n")
        answers.flush()
        os.dup2(1, 2)
        for request in requests:
            for answer in (pool.map if pool else map)(partial(_graded, grade), json.loads(request)):
                answers.write(answer + "\n")
                answers.flush()


def main() -> None:
    # Whatever the reward code prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(json.loads(sys.argv[1]), sys.stdin, answers)


if __name__ == "__main__":
    main()
