"""The process that lives inside a jail: a fork server that runs one check per child.

Started as `python -s -S -B runner.py ROLE` with a unix socket as standard input. Each request carries one end of a data socket:

* role `candidate`: the child runs the untrusted program and answers calls on the data socket with plain values. It never sees an
  expected output, so nothing it says can prove more than that it computed the right values.
* role `tester`: the child runs the suite's own test code, in a jail of its own that no untrusted code ever enters; every use of the
  candidate is a call through the data socket. Its report is the verdict.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import candidate
import guard
import tester
import wire

PRELOAD = (
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "math", "operator", "random", "re", "statistics", "string", "typing"),
)
REQUEST_LIMIT = 64 << 20


def serve(role: str, landlocked: bool) -> None:
    """Answer requests until the supervisor goes away."""
    control = socket.socket(fileno=os.dup(0))
    guard.become_reaper()
    with contextlib.suppress(ImportError):
        for name in PRELOAD:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wire.send(control, {"hello": role, "python": sys.version.split()[0], "pid": os.getpid()})
    while True:
        request, data = _accept(control)
        child = os.fork()
        if child == 0:
            control.close()
            _run_child(role, request, data)
        for sock in data:
            sock.close()
        wire.send(control, _watch(child, control, landlocked))


def _accept(control: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    head, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    if not head:
        os._exit(0)
    request = wire.receive(control, REQUEST_LIMIT)
    return request, [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _watch(child: int, control: socket.socket, landlocked: bool) -> dict[str, Any]:
    """Wait for the child; on its end (or the supervisor's) leave no process behind."""
    watcher = select.poll()
    handle = os.pidfd_open(child)
    watcher.register(handle, select.POLLIN)
    watcher.register(control.fileno(), select.POLLIN | select.POLLHUP)
    while not any(fd == handle for fd, _ in watcher.poll()):
        if not control.recv(1, socket.MSG_PEEK):
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        time.sleep(0.01)
    os.close(handle)
    _, status, usage = os.wait4(child, 0)
    orphans = 0 if landlocked else _reap_orphans()
    dirty = bool(orphans) or bool(os.listdir("."))
    return {"status": status, "rss_kb": usage.ru_maxrss, "orphans": orphans, "dirty": dirty}


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
            guard.forbid_syscalls(request["limits"]["processes"])
            candidate.main(request, data[0])
        else:
            tester.main(request, data[0], data[1])
    except BaseException as error:
        with contextlib.suppress(BaseException):
            wire.send(data[-1], ["broken", f"{type(error).__name__}: {error}"[:300]])
    finally:
        os._exit(0)


def _quiet(data: list[socket.socket]) -> None:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    keep = {sock.fileno() for sock in data}
    for fd in range(3, 64):
        if fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


if __name__ == "__main__":
    serve(sys.argv[1], landlocked="--landlocked" in sys.argv)
