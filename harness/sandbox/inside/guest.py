"""One whole program in the jail, or the harness' own server of several: it runs until it ends, and talks
through its descriptors.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from typing import Any, NoReturn

import folders
import guard
import syscalls
import wire

SOURCE_LIMIT = 64 << 20


def confine(plan: dict[str, Any]) -> None:
    """Put the limits and the system-call filter on this process, for good."""
    limits = plan["limits"]
    guard.limit_resources(limits, plan["own_user"])
    if sys.platform == "linux":
        syscalls.install(limits["processes"], limits["threads"] > 1)


def run(plan: dict[str, Any], control: socket.socket) -> NoReturn:
    """Run `plan["script"]` under the same limits and system-call filter as a program of a check, then say how
    it ended, and exit.

    plan: script (its name), arguments, limits, own_user, work, server (the script is the harness' own: it is
    not confined itself, but has `confine()` for its children, and `work`, the folders for them). Over the
    control socket come the script's text, and from here a greeting and, if the script ends, ["ended",
    exception or "", its text]; both come from this process, so they prove nothing.
    """
    work = folders.WorkFolders(plan["work"])
    place = work.create()
    os.chdir(place)
    os.environ["TMPDIR"] = place
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    sys.argv = [plan["script"], *plan["arguments"]]
    wire.send(control, {"python": sys.version.split()[0]})
    source = wire.receive(control, SOURCE_LIMIT)
    if not isinstance(source, str):
        os._exit(1)
    end = ["ended", "", ""]
    space: dict[str, Any] = {"__name__": "__main__", "__file__": plan["script"]}
    try:
        if plan["server"]:
            space.update(work=work, confine=functools.partial(confine, plan))
        else:
            confine(plan)
        exec(compile(source, plan["script"], "exec"), space)
    except SystemExit as error:
        end = ["ended", "" if error.code in (None, 0) else "SystemExit", str(error.code or "")[:300]]
    except BaseException as error:
        end = ["ended", type(error).__name__, str(error)[:300]]
    with contextlib.suppress(OSError):
        wire.send(control, end)
    os._exit(0)
