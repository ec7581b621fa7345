"""What a process inside the jail takes away from itself: privileges, resources, system calls, files. Linux only, through ctypes."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import resource
import signal
import struct
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, argument: int | ctypes.c_void_p = 0) -> None:
    """`prctl(2)`; OSError on failure."""
    if _libc.prctl(option, argument if isinstance(argument, ctypes.c_void_p) else ctypes.c_ulong(argument), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def become_reaper() -> None:
    """Adopt orphans, refuse new privileges, and be closed to ptrace and /proc/<pid>/mem from processes of the same user."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """End this process when its parent, process ``parent``, ends: without a process namespace nothing else would stop it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(limits: dict[str, Any]) -> None:
    """Resource limits of one check: CPU seconds, address space, file size, open files, core dumps, processes."""
    seconds = math.ceil(limits["cpu_seconds"] or limits["seconds"] + 1)
    megabytes = limits["memory_mb"] << 20
    for kind, value in (
        (resource.RLIMIT_AS, megabytes),
        (resource.RLIMIT_FSIZE, limits["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # at the first a signal that names the cause, at the second the end
    if limits["processes"]:
        # The kernel counts the user's processes elsewhere too on old versions, hence the allowance.
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] + 64,) * 2)


# --- seccomp -------------------------------------------------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS: dict[str, tuple[int, int]] = {  # name: (x86_64, aarch64); -1 where the call does not exist
    "clone": (56, 220), "fork": (57, -1), "vfork": (58, -1), "clone3": (435, 435), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "prlimit64": (302, 261), "prctl": (157, 167), "socket": (41, 198),
    "setsid": (112, 157), "setpgid": (109, 154), "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268),
    "pivot_root": (155, 41), "chroot": (161, 51), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "reboot": (169, 142), "personality": (135, 92), "open_by_handle_at": (304, 265), "shmget": (29, 194),
    "mq_open": (240, 180), "memfd_create": (319, 279), "fsopen": (430, 430), "move_mount": (429, 429), "open_tree": (428, 428),
}  # fmt: skip
_SPECIAL = {"clone", "clone3", "kill", "tkill", "tgkill", "prctl", "prlimit64"}
_NEW_PROCESS = {"fork", "vfork", "execve", "execveat"}
_CLONE_THREAD = 0x10000
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38


@functools.cache
def seccomp_supported() -> bool:
    """Whether the filter knows this machine's system-call numbers."""
    return platform.machine() in _ARCHITECTURES


def _instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _equal(value: int, jump_true: int, jump_false: int) -> bytes:
    return _instruction(0x15, jump_true, jump_false, value & 0xFFFFFFFF)


def _give(action: int) -> bytes:
    return _instruction(0x06, 0, 0, action)


def _argument(index: int) -> bytes:
    return _load(16 + 8 * index)


def build_filter(processes: int, pid: int, machine: str) -> bytes:
    """The BPF program: everything is allowed except the calls of `_NUMBERS`; signals and limits reach the own process only.

    processes: 0 also forbids fork and exec (threads stay possible). pid: the process that will carry the filter.
    """
    column = list(_ARCHITECTURES).index(machine)
    number = {name: pair[column] for name, pair in _NUMBERS.items() if pair[column] >= 0}
    refuse = _give(_ERRNO | _EPERM)
    parts = [_load(4), _equal(_ARCHITECTURES[machine], 1, 0), _give(_KILL), _load(0)]
    if machine == "x86_64":
        parts += [_instruction(0x35, 0, 1, 0x40000000), refuse]  # the x32 table would bypass the numbers below
    for name, value in number.items():
        if name not in _SPECIAL and not (processes and name in _NEW_PROCESS):
            parts += [_equal(value, 0, 1), refuse]
    parts += [_equal(number["clone3"], 0, 1), _give(_ERRNO | _ENOSYS)]  # the C library then uses clone, whose flags can be read
    if not processes:
        parts += [_equal(number["clone"], 0, 4), _argument(0), _instruction(0x45, 1, 0, _CLONE_THREAD), refuse, _give(_ALLOW)]
    for name in ("kill", "tkill", "tgkill"):
        parts += [_equal(number[name], 0, 4), _argument(0), _equal(pid, 1, 0), refuse, _give(_ALLOW)]
    parts += [_equal(number["prlimit64"], 0, 5), _argument(0), _equal(0, 2, 0), _equal(pid, 1, 0), refuse, _give(_ALLOW)]
    parts += [_equal(number["prctl"], 0, 4), _argument(0), _equal(PR_SET_PDEATHSIG, 1, 0), _equal(PR_SET_DUMPABLE, 0, 1), refuse]
    return b"".join([*parts, _give(_ALLOW)])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_PLACEHOLDER = 0x7FFFFFF3  # no process has this id


@functools.cache
def _template(restrictive: bool) -> bytes:
    return build_filter(0 if restrictive else 1, _PLACEHOLDER, platform.machine())


def prepare_filters() -> None:
    """Build the filters ahead of the first check."""
    if seccomp_supported():
        _template(True)
        _template(False)


def forbid_syscalls(processes: int) -> None:
    """Install the filter on this process; OSError where the kernel refuses. Does nothing on a machine whose numbers are unknown."""
    if not seccomp_supported():
        return
    code = _template(not processes).replace(struct.pack("=I", _PLACEHOLDER), struct.pack("=I", os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    if _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
