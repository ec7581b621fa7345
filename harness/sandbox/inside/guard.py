"""What a process inside the jail takes away from itself: its parent's trust and resources. Linux only,
through ctypes.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
OWN_PROCESSES = 8  # the launcher, the fork server, the program's first thread, and some that are just ending

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int = 0) -> None:
    """`prctl(2)`; OSError on failure."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def become_reaper() -> None:
    """Adopt orphans, refuse new privileges, and be closed to ptrace and /proc/<pid>/mem from processes of the
    same user.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """End this process when its parent, process ``parent``, ends: without a process namespace nothing else
    would stop it.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(limits: dict[str, Any], own_user: bool) -> None:
    """Resource limits of one check: CPU seconds, address space, file size, open files, core dumps, threads
    and processes.

    own_user: no other process on the machine counts as this jail's user, so that the kernel's count of the
    user's tasks is the jail's.
    """
    seconds = math.ceil(limits["cpu_seconds"] or limits["seconds"] + 1)
    megabytes = limits["memory_mb"] << 20
    for kind, value in (
        (resource.RLIMIT_AS, megabytes),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (
            resource.RLIMIT_NPROC,
            limits["threads"] + limits["processes"] + (OWN_PROCESSES if own_user else _tasks()),
        ),
    ):
        _set(kind, value)
    resource.setrlimit(
        resource.RLIMIT_CPU, (seconds, seconds + 1)
    )  # at the first a signal that names the cause, at the second the end


def _set(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _tasks() -> int:
    """Tasks on the whole machine, an upper bound of any user's; 0 where the system does not say."""
    buffer = ctypes.create_string_buffer(256)
    if not hasattr(_libc, "sysinfo") or _libc.sysinfo(buffer) or ctypes.sizeof(ctypes.c_long) != 8:
        return 1 << 15
    return struct.unpack_from("=H", buffer, 80)[0]
