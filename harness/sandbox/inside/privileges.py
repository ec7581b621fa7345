"""Who a jail runs as: an unprivileged id without groups and without any capability, and no way back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
LAST_CAPABILITY = 63
FIRST_KEPT_DESCRIPTOR = 200

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _prctl(option: int, first: int, second: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0), f"prctl {option}")


def give_up(user: int | None) -> None:
    """Become `user` (None: stay who this is), without supplementary groups, and lose every capability of all
    five sets for good.

    Raises OSError where the kernel refuses, so that no jail starts with more rights than it says.
    """
    with contextlib.suppress(OSError):
        for capability in range(
            LAST_CAPABILITY + 1
        ):  # refused to a process that has none, which is fine: it cannot gain any below
            _prctl(PR_CAPBSET_DROP, capability)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    with contextlib.suppress(OSError):
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(nothing)), "capset")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def forgo_resources() -> None:
    """No real-time or raised priority, no locked memory, no message queues, no core dumps: for this process
    and its children.
    """
    for name in ("RLIMIT_RTPRIO", "RLIMIT_NICE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_CORE"):
        kind = getattr(resource, name, None)
        if kind is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (0, 0))


def keep_reachable(folders: list[str]) -> None:
    """Let imports from these folders go on once this process may no longer pass the folders above them (a
    Python in root's home).

    Each is opened now, and stands in `sys.path` and in the loaded packages by its descriptor:
    /proc/self/fd/N.
    """
    names: dict[str, str] = {}
    for number, folder in enumerate(folders, FIRST_KEPT_DESCRIPTOR):
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        os.dup2(handle, number, inheritable=False)
        os.close(handle)
        names[folder] = f"/proc/self/fd/{number}"

    def renamed(path: str) -> str:
        for folder, name in names.items():
            if path == folder or path.startswith(folder + "/"):
                return name + path[len(folder) :]
        return path

    sys.path[:] = [renamed(path) for path in sys.path]
    for module in list(sys.modules.values()):
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            places[:] = [renamed(path) for path in places]
    sys.path_importer_cache.clear()
