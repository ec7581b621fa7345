"""The trainer's side of the reward process: it may die, hang or flood, and the training goes on.

The answer it failed at is tried once more, alone in a new process; if that fails too, it is recorded with
reward 0 and the status ``reward_died``, ``reward_hung`` or ``reward_flooded``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from harness.errors import UserError
from harness.records.outside import parse_json
from methods.training.grpo.rewards import Form, Reward
from methods.training.grpo.tasks import Problem

Job = tuple[Problem, str | None]


_MOST = 1e12


class RewardError(UserError, RuntimeError):
    """The reward process cannot be started."""


class _Failure(Exception):
    """The reward process did not answer; the text is the status to record."""


@dataclass(frozen=True)
class RewardOptions:
    """How answers are graded.

    seconds, cpu_seconds: limits of one run of a program. answer_seconds: how long the process may take over
    one answer before it counts as hung. most_bytes: longest reply per answer before it counts as a flood.
    file: own reward function instead.
    """

    form: Form = "completion"
    code: bool = True
    seconds: float = 10.0
    cpu_seconds: float = 2.0
    answer_seconds: float = 60.0
    most_bytes: int = 1 << 14
    start_seconds: float = 120.0
    workers: int = 1
    file: Path | None = None
    allow_unsafe: bool = False


class RewardProcess:
    """Grades answers in a separate process. Use as a context manager."""

    def __init__(self, options: RewardOptions) -> None:
        self.options = options
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def grade(self, jobs: Sequence[Job]) -> list[Reward]:
        """Rewards in order. Identical answers to one task are graded once. Never raises for what the reward
        code does.
        """
        distinct, rewards = list(dict.fromkeys(jobs)), list[Reward]()
        while len(rewards) < len(distinct):
            rewards += self._ask(distinct[len(rewards) :])[0]
            if len(rewards) < len(distinct):
                alone, failure = self._ask(distinct[len(rewards) : len(rewards) + 1])
                rewards += alone or [Reward({}, failure)]
        table = dict(zip(distinct, rewards, strict=True))
        return [table[job] for job in jobs]

    def _ask(self, jobs: Sequence[Job]) -> tuple[list[Reward], str]:
        """The answers that came before the process failed, if it did, and how it failed."""
        process, rewards = self._ready(), list[Reward]()
        request = json.dumps([{"task": asdict(task), "text": text} for task, text in jobs]) + "\n"
        # In a thread, because a process that hangs does not read either.
        threading.Thread(target=_send, args=(process, request.encode()), daemon=True).start()
        try:
            for _ in jobs:
                rewards.append(
                    _reward(self._line(process, self.options.answer_seconds, self.options.most_bytes))
                )
        except _Failure as failure:
            self._kill()
            return rewards, str(failure)
        except RewardError:
            self._kill()
            return rewards, "reward_died"
        return rewards, ""

    def _line(self, process: subprocess.Popen[bytes], seconds: float, limit: int) -> bytes:
        """The next line of the process' answers; _Failure if it ends, takes too long or does not stop."""
        assert process.stdout is not None
        descriptor, deadline = process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Failure("reward_hung")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise _Failure("reward_died")
            self._unread += part
            if b"\n" not in self._unread and len(self._unread) > limit:
                raise _Failure("reward_flooded")
        line, _, self._unread = self._unread.partition(b"\n")
        # One read may have brought this line whole, together with the one before it.
        if len(line) > limit:
            raise _Failure("reward_flooded")
        return line

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        options = self.options
        settings = {**asdict(options), "file": str(options.file) if options.file else None}
        command = [sys.executable, "-m", "methods.training.grpo.reward_server", json.dumps(settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.starts += 1
        try:
            self._line(self._process, options.start_seconds, 1 << 10)
        except _Failure as failure:
            raise RewardError(
                f"the reward process does not start ({failure}): {self._last_words()}"
            ) from None
        return self._process

    def _last_words(self) -> str:
        process = self._process
        assert process is not None
        process.kill()
        _, errors = process.communicate()
        return (errors.decode(errors="replace").strip().splitlines() or ["no message"])[-1]

    def _kill(self) -> None:
        process, self._process, self._unread = self._process, None, b""
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> RewardProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()


def _reward(line: bytes) -> Reward:
    """A line of the reward process; RewardError for one that is no reward, whatever code of others wrote."""
    row = parse_json(line, "a line of the reward process", RewardError, finite=False)
    components, status = row.get("components"), row.get("status")
    named = isinstance(components, dict) and all(
        isinstance(value, int | float) and abs(value) < _MOST for value in components.values()
    )
    if not named or not isinstance(status, str):
        raise RewardError("a line of the reward process holds no components and status")
    return Reward(components, status)


def total(reward: Reward, weights: dict[str, float]) -> float:
    """Weighted sum of the components (weight 1 where none is given)."""
    return sum(value * weights.get(name, 1.0) for name, value in reward.components.items())


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write(request)
        process.stdin.flush()
