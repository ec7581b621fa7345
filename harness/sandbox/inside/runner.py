"""The process that lives inside a jail: a fork server that runs one check per child.

Started as `python -s -S -B runner.py PLAN` with a unix socket as standard input; PLAN is JSON: the role, and what is left to do to be
isolated (`mode`: namespaces = all done by the launcher, pivot, landlock, or bare). Each request carries one end of a data socket:

* role `candidate`: the child runs the untrusted program and answers calls on the data socket with plain values. It never sees an
  expected output, so nothing it says can prove more than that it computed the right values.
* role `judge`: the child runs the suite's own test code and comparisons, in a jail of its own that no untrusted code ever enters; every
  use of the program is a call through the data socket. Its report, on a second socket, is the verdict.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import candidate
import guard
import judge
import landlock
import pivot
import wire

PRELOAD = (
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "math", "operator", "random", "re", "statistics", "string", "typing"),
)
REQUEST_LIMIT = 64 << 20
LINUX = sys.platform == "linux"


def serve(plan: dict[str, Any]) -> None:
    """Answer requests until the supervisor goes away."""
    isolation = _isolate(plan)
    control = socket.socket(fileno=os.dup(0))
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wire.send(control, {"python": sys.version.split()[0], "isolation": isolation})
    while True:
        request, data = _accept(control)
        runner, child = os.getpid(), os.fork()
        if child == 0:
            if LINUX:
                guard.die_with(runner)
            control.close()
            _run_child(plan["role"], request, data)
        for sock in data:
            sock.close()
        wire.send(control, _watch(child, control, has_namespace=plan["mode"] == "namespaces"))


def _isolate(plan: dict[str, Any]) -> str:
    done = ""
    if plan["mode"] == "pivot":
        pivot.enter(plan)
        os.execve(plan["then"][0], plan["then"], plan["environment"])  # the library that this process started from is out of sight now
    elif plan["mode"] == "landlock":
        if not guard.seccomp_supported():
            raise OSError("Landlock is only enough together with a system-call filter, which does not know this processor")
        done = f"landlock {landlock.restrict(plan['read'], plan['listed'], plan['write'])}"
    if LINUX:
        guard.become_reaper()
        guard.prepare_filters()
    return done


def _accept(control: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    head, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    if not head:
        os._exit(0)
    request = wire.receive(control, REQUEST_LIMIT)
    return request, [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _watch(child: int, control: socket.socket, has_namespace: bool) -> dict[str, Any]:
    """Wait for the child; on its end (or the supervisor's) leave no process behind."""
    _wait_for(child, control)
    _, status, usage = os.wait4(child, 0)
    # Without a process namespace a signal to "everyone" would leave the jail; there the system-call filter forbids new processes.
    orphans = _reap_orphans() if has_namespace else 0
    dirty = bool(orphans) or bool(os.listdir("."))
    return {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_kb": usage.ru_maxrss, "orphans": orphans, "dirty": dirty}


def _wait_for(child: int, control: socket.socket) -> None:
    watcher = select.poll()
    watcher.register(control.fileno(), select.POLLIN | select.POLLHUP)
    handle = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    if handle is not None:
        watcher.register(handle, select.POLLIN)
    while True:
        ready = watcher.poll(None if handle is not None else 1)
        if any(fd == handle for fd, _ in ready) or (handle is None and os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)):
            break
        if ready and not control.recv(1, socket.MSG_PEEK):
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        if ready:
            time.sleep(0.01)
    if handle is not None:
        os.close(handle)


def _reap_orphans() -> int:
    count = 0
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
            count += 1
        except ChildProcessError:
            return count


def _run_child(role: str, request: dict[str, Any], data: list[socket.socket]) -> None:
    try:
        _quiet(data)
        guard.limit_resources(request["limits"])
        if role == "candidate":
            if LINUX:
                guard.forbid_syscalls(request["limits"]["processes"])
            candidate.main(request, data[0])
        else:
            judge.main(request, data[0], data[1])
    except BaseException as error:
        with contextlib.suppress(BaseException):
            wire.send(data[-1], ["broken", f"{type(error).__name__}: {error}"[:300]])
    finally:
        os._exit(0)


def _quiet(data: list[socket.socket]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    fences = [2, *sorted(sock.fileno() for sock in data), 64]
    for low, high in itertools.pairwise(fences):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
