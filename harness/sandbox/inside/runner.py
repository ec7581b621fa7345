"""The process that lives inside a jail: a fork server that runs one check per child, or the host of one whole
program.

Started as `python -s -S -B runner.py PLAN` with a unix socket as standard input; PLAN is JSON: the role, and
what is left to do to be isolated (`mode`: namespaces = the launcher has built the root, pivot, landlock, or
bare). Roles:

* `candidate`: each request carries one end of a data socket; a child runs the untrusted program and answers
  calls on it with plain values. It never sees an expected output, so nothing it says can prove more than that
  it computed the right values.
* `judge`: a child runs the suite's own test code and comparisons, in a jail of its own that no untrusted code
  ever enters; every use of the program is a call through the data socket. Its report, on a second socket, is
  the verdict.
* `guest`: no request; one script runs here until it ends, with the descriptors that it was given.
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
import folders
import guard
import guest
import judge
import landlock
import pivot
import privileges
import syscalls
import wire

PRELOAD = (
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq"),
    *("itertools", "math", "operator", "random", "re", "statistics", "string", "typing"),
)
REQUEST_LIMIT = 64 << 20
ENTRIES = 10_000
LOOK_SECONDS = 0.1
LINUX = sys.platform == "linux"


def serve(plan: dict[str, Any]) -> None:
    """Answer requests until the supervisor goes away."""
    if plan["role"] == "guest" and plan["mode"] != "pivot":
        sys.path[0:1] = plan["path"]  # the first is the folder of the runner
    _isolate(plan)
    control = socket.socket(fileno=os.dup(0))
    if plan["role"] == "guest":
        guest.run(plan, control)
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    work = folders.WorkFolders(plan["work"])
    gc.collect()
    gc.freeze()
    wire.send(control, {"python": sys.version.split()[0]})
    while True:
        request, data = _accept(control)
        place = work.create()
        runner, child = os.getpid(), os.fork()
        if child == 0:
            if LINUX:
                guard.die_with(runner)
            control.close()
            _run_child(plan, request, data, place)
        for sock in data:
            sock.close()
        wire.send(control, _watch(child, control, plan, request["limits"], work, place))


def _isolate(plan: dict[str, Any]) -> None:
    mode = plan["mode"]
    if mode == "pivot":
        pivot.enter(plan)
        os.execve(
            plan["then"][0], plan["then"], plan["environment"]
        )  # the library that this process started from is out of sight now
    elif mode == "namespaces":
        pivot.seal(plan["devices"])
        if plan["user"] is not None:
            os.chown(plan["work"], plan["user"], plan["user"])
    elif mode == "landlock":
        if not syscalls.supported():
            raise OSError(
                "Landlock is only enough together with a system-call filter, which does not know this "
                "processor"
            )
        privileges.keep_reachable(plan["closed"])
        landlock.restrict(plan["read"], plan["listed"], plan["write"])
    if LINUX:
        parent = os.getppid()
        privileges.give_up(plan["user"])
        privileges.forgo_resources()
        guard.become_reaper()
        if plan["fatherly"]:
            guard.die_with(parent)  # a change of user has made the kernel forget it
        syscalls.prepare()
    os.chdir(plan["work"])


def _accept(control: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    head, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    if not head:
        os._exit(0)
    request = wire.receive(control, REQUEST_LIMIT)
    return request, [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _watch(
    child: int,
    control: socket.socket,
    plan: dict[str, Any],
    limits: dict[str, Any],
    work: folders.WorkFolders,
    place: str,
) -> dict[str, Any]:
    """Wait for the child; on its end (or the supervisor's) leave no process and no file behind."""
    namespace = plan["mode"] == "namespaces"
    overfull = _wait_for(child, control, place, namespace, limits["file_mb"] << 20)
    _, status, usage = os.wait4(child, 0)
    # Without a process namespace a signal to "everyone" would leave the jail; there the system-call filter
    # forbids new processes.
    orphans = _reap_orphans() if namespace else 0
    dirty = bool(orphans) or not work.remove(place)
    return {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime, "overfull": overfull, "dirty": dirty}


def _wait_for(child: int, control: socket.socket, place: str, namespace: bool, most: int) -> bool:
    """Wait for the child's end, and end it when its work folder grows too large; whether it did."""
    watcher = select.poll()
    watcher.register(control.fileno(), select.POLLIN | select.POLLHUP)
    handle = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
    if handle is not None:
        watcher.register(handle, select.POLLIN)
    overfull = False
    while True:
        ready = watcher.poll(1000 * LOOK_SECONDS)
        if any(fd == handle for fd, _ in ready) or (
            handle is None and os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        ):
            break
        if ready and not control.recv(1, socket.MSG_PEEK):
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        if ready:
            time.sleep(0.01)
        elif not overfull and _is_overfull(place, namespace, most):
            overfull = True
            os.kill(child, signal.SIGKILL)
    if handle is not None:
        os.close(handle)
    return overfull


def _is_overfull(place: str, namespace: bool, most: int) -> bool:
    """Whether a work folder holds too many entries or (where it is no file system of limited size) bytes."""
    if namespace:
        state = os.statvfs(place)
        return state.f_files - state.f_ffree > ENTRIES
    size, entries = folders.usage(place, ENTRIES)
    return size > most or entries >= ENTRIES


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


def _run_child(plan: dict[str, Any], request: dict[str, Any], data: list[socket.socket], place: str) -> None:
    try:
        os.setsid()
        _quiet(sorted(sock.fileno() for sock in data))
        os.chdir(place)
        os.environ["TMPDIR"] = place
        guard.limit_resources(request["limits"], plan["own_user"])
        if plan["role"] == "candidate":
            if LINUX:
                syscalls.install(request["limits"]["processes"])
            candidate.main(request, data[0])
        else:
            judge.main(request, data[0], data[1])
    except BaseException as error:
        with contextlib.suppress(BaseException):
            wire.send(data[-1], ["broken", f"{type(error).__name__}: {error}"[:300]])
    finally:
        os._exit(0)


def _quiet(kept: list[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for low, high in itertools.pairwise([2, *kept, privileges.FIRST_KEPT_DESCRIPTOR]):
        os.closerange(low + 1, high)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
