"""Starting a jail: the process, its control socket, the probe that says which backend works here, and jails
for whole programs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.sandbox import backends
from harness.sandbox.check import JailError, Limits
from harness.sandbox.inside import wire
from harness.sandbox.order import Backend, Guest, Order
from harness.sandbox.scratch import Scratch

START_SECONDS = 20.0


@dataclass(frozen=True)
class Running:
    """A started jail: its process, the control socket, and a folder to discard afterwards."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    scratch: Scratch | None

    def kill(self) -> None:
        """End the jail with everything in it."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        if self.scratch is not None:
            self.scratch.discard()

    def ending(self, seconds: float) -> list[str] | None:
        """What a guest's jail said last: ["ended", exception's name or "", its text]; None when it was
        killed. May raise TimeoutError.
        """
        self.control.settimeout(seconds)
        try:
            answer: Any = wire.receive(self.control, 1 << 16)
        except TimeoutError:
            raise
        except (OSError, wire.WireError):
            return None
        return [str(word) for word in answer] if isinstance(answer, list) else None


def start(backend: Backend, order: Order) -> Running:
    """Start a jail and wait for its first message. Raises JailError with the jail's own words when it does
    not come up.
    """
    launch = backends.BACKENDS[backend](order)
    here, there = socket.socketpair()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    kept = order.guest.descriptors if order.guest else ()
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            launch.command,
            stdin=there.fileno(),
            stdout=null,
            stderr=pipe,
            env=launch.environment,
            cwd=launch.folder,
            start_new_session=True,
            pass_fds=kept,
        )
    except OSError as error:
        here.close()
        _discard(launch.scratch)
        raise JailError(f"cannot start {launch.command[0]}: {error}") from None
    finally:
        there.close()
    problem = _await_hello(here)
    if problem is not None:
        process.kill()
        words = (process.communicate()[1] or b"").decode(errors="replace").strip().splitlines()
        here.close()
        _discard(launch.scratch)
        raise JailError(f"the jail did not start ({problem}): {words[-1] if words else 'no message'}")
    if process.stderr:
        process.stderr.close()
    return Running(process, here, launch.scratch)


def start_guest(
    script: Path,
    arguments: Iterable[str] = (),
    path: Iterable[Path] = (),
    read: Iterable[Path] = (),
    descriptors: Iterable[int] = (),
    limits: Limits | None = None,
    backend: Backend | None = None,
    search: Iterable[Path] = (),
    server: bool = False,
) -> Running:
    """Run one Python program in a jail of its own, without network, until it ends or is killed;
    `Running.kill` must be called.

    script: source file; it need not be visible in the jail. arguments: its `sys.argv[1:]`. path: folders put
    before `sys.path`, and shown. search: folders put before `sys.path` of which only what `read` names is
    shown (the folder of installed packages). read: further files and folders that it may read, shown at their
    own places; installed packages are hidden unless named here. descriptors: open files and sockets (a memfd,
    one end of a socket pair) that it keeps under their own numbers, from 3; close your copies after the
    start. backend: default, the strongest here. It has the rights of a model-written program: a work folder
    of limited size, `limits.threads` threads, no child processes unless `limits.processes`, and
    `limits.cpu_seconds` (else `limits.seconds`) of processor time; nobody watches its wall clock. The jail
    ends with the thread that called this. Raises JailError when it cannot be started, or nothing isolates
    here.
    """
    backend = backend or probe()[0]
    if backend == "none":
        raise JailError("nothing on this machine isolates a program")
    guest = Guest(script, tuple(arguments), tuple(path), tuple(search), tuple(descriptors), server)
    source = script.read_text(encoding="utf-8")
    running = start(backend, Order("guest", limits or Limits(), read=tuple(read), guest=guest))
    try:
        wire.send(running.control, source)
    except OSError as error:
        running.kill()
        raise JailError(f"the jail takes no program: {error}") from None
    return running


def _await_hello(control: socket.socket) -> str | None:
    control.settimeout(START_SECONDS)
    try:
        return None if isinstance(wire.receive(control, 1 << 16), dict) else "it ended"
    except (OSError, wire.WireError) as error:
        return str(error)


def _discard(folder: Scratch | None) -> None:
    if folder is not None:
        folder.discard()


@functools.cache
def probe() -> tuple[Backend, dict[str, str]]:
    """The strongest backend that really starts here, and why each stronger one does not."""
    failures: dict[str, str] = {}
    if sys.platform != "linux":
        return "none", {"isolation": f"it needs Linux, this is {sys.platform}"}
    for name in backends.BACKENDS:
        if name == "none":
            break
        try:
            running = start(name, Order("candidate", Limits()))
        except JailError as error:
            failures[name] = str(error)
            continue
        running.kill()
        return cast(Backend, name), failures
    return "none", failures
