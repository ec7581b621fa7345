"""The system-call filter of untrusted code: an allow-list as a BPF program, with arguments checked where a
call can do more than one thing.

What is not listed is refused: EPERM for the calls that every kernel since 5.4 has, ENOSYS for younger ones,
which makes the C library fall back to an older call. Pointers cannot be followed by such a program, so a call
whose meaning lies in memory (sendmsg, clone3, openat2) is refused as a whole.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Number on x86_64 and on aarch64 (from the kernel's unistd.h), -1 where the call does not exist.
PLAIN: dict[str, tuple[int, int]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1),
    "pipe2": (293, 59), "sendfile": (40, 71), "copy_file_range": (326, 285), "fstat": (5, 80),
    "newfstatat": (262, 79), "stat": (4, -1), "lstat": (6, -1), "statx": (332, 291), "access": (21, -1),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, -1), "readlinkat": (267, 78),
    "getdents": (78, -1), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "unlink": (87, -1), "unlinkat": (263, 35),
    "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276), "symlink": (88, -1),
    "symlinkat": (266, 36), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83),
    "fallocate": (285, 47), "umask": (95, 166), "fadvise64": (221, 223), "mmap": (9, 222),
    "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233), "brk": (12, 214),
    "msync": (26, 227), "mincore": (27, 232), "membarrier": (324, 283), "futex": (202, 98),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "set_tid_address": (218, 96),
    "rseq": (334, 293), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "gettid": (186, 178),
    "getpid": (39, 172), "getppid": (110, 173), "exit": (60, 93), "exit_group": (231, 94),
    "arch_prctl": (158, -1), "getcpu": (309, 168), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, -1), "restart_syscall": (219, 128),
    "wait4": (61, 260), "waitid": (247, 95), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, -1), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "times": (100, 153), "alarm": (37, -1), "setitimer": (38, 103), "getitimer": (36, 102), "poll": (7, -1),
    "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72), "epoll_create": (213, -1),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, -1), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd": (284, -1), "eventfd2": (290, 19), "getrandom": (318, 278),
    "uname": (63, 160), "sysinfo": (99, 179), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, -1), "getpgid": (121, 155), "getsid": (124, 156),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "getrusage": (98, 165), "recvfrom": (45, 207),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209),
}  # fmt: skip
CHECKED: dict[str, tuple[int, int]] = {
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "fcntl": (72, 25),
    "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261), "open": (2, -1), "openat": (257, 56),
    "socketpair": (53, 199), "sendto": (44, 206),
}  # fmt: skip
_FIRST_YOUNG_CALL = (
    424  # calls from here on have one number on all processors and came with Linux 5.1 or later
)
_X32_CALLS = 0x40000000

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38

# clone: what the C library asks for when it starts a thread; a process may also use the flags of fork and
# posix_spawn.
_CLONE_THREAD, _THREAD_FLAGS, _PROCESS_FLAGS = 0x10000, 0x7D0FFF, 0x17D4FFF
_FCNTL = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    1030,
    1032,
)  # copies, flags, locks, size of a pipe; no owner, no signal, no lease
_IOCTL = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # isatty, window size, bytes waiting, (non-)blocking, close-on-exec
_PRCTL = (15, 16, 0x53564D41)  # name of a thread, name of a memory area
_TRUNCATE, _ACCESS_MODE = 0o1000, 3


def _instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value & 0xFFFFFFFF)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _argument(index: int, high: bool = False) -> bytes:
    return _load(16 + 8 * index + (4 if high else 0))


def _mask(value: int) -> bytes:
    return _instruction(0x54, 0, 0, value)


def _give(action: int) -> bytes:
    return _instruction(0x06, 0, 0, action)


_PASS, _REFUSE, _UNKNOWN = _give(_ALLOW), _give(_ERRNO | _EPERM), _give(_ERRNO | _ENOSYS)


def _one_of(values: tuple[int, ...]) -> bytes:
    """Allow when the loaded value is one of these, else refuse."""
    last = len(values) - 1
    tests = [_instruction(0x15, last - index + 1, 0, value) for index, value in enumerate(values)]
    return b"".join([*tests, _REFUSE, _PASS])


def _clone(processes: bool, threads: bool) -> bytes:
    if not processes and not threads:
        return _REFUSE
    allowed = _PROCESS_FLAGS if processes else _THREAD_FLAGS
    known = _argument(0) + _instruction(0x45, 0, 1, ~allowed) + _REFUSE
    return known + (_PASS if processes else _instruction(0x45, 1, 0, _CLONE_THREAD) + _REFUSE + _PASS)


def _opened(flags: int) -> bytes:
    """Refuse to truncate a file that is opened for reading: the first two versions of Landlock do not see
    it.
    """
    return (
        _argument(flags)
        + _mask(_TRUNCATE | _ACCESS_MODE)
        + _instruction(0x15, 0, 1, _TRUNCATE)
        + _REFUSE
        + _PASS
    )


def _null(index: int) -> bytes:
    """Allow when the pointer is null: a message then goes to the other end of its own socket pair."""
    zero = _instruction(0x15, 1, 0, 0) + _REFUSE
    return _argument(index) + zero + _argument(index, high=True) + zero + _PASS


def _checks(processes: bool, pid: int, threads: bool) -> dict[str, bytes]:
    new = _PASS if processes else _REFUSE
    return {
        "clone": _clone(processes, threads),
        "clone3": _UNKNOWN,
        **dict.fromkeys(("fork", "vfork", "execve"), new),
        "execveat": _REFUSE,
        **dict.fromkeys(("kill", "tkill", "tgkill"), _argument(0) + _one_of((pid,))),
        "prlimit64": _argument(0) + _one_of((0, pid)),
        "fcntl": _argument(1) + _one_of(_FCNTL),
        "ioctl": _argument(1) + _one_of(_IOCTL),
        "prctl": _argument(0) + _one_of(_PRCTL),
        "open": _opened(1),
        "openat": _opened(2),
        "socketpair": _argument(0) + _one_of((1,)),
        "sendto": _null(4),
    }


def build_filter(processes: int, pid: int, machine: str, threads: bool = True) -> bytes:
    """The BPF program: what PLAIN and CHECKED name, the latter by their arguments, and nothing else.

    processes: 0 also forbids fork and exec (threads stay possible). pid: the process that will carry the
    filter; signals and limits reach no other. threads: false forbids a second thread too.
    """
    column = list(ARCHITECTURES).index(machine)
    actions = {pair[column]: _PASS for pair in PLAIN.values()}
    actions.update(
        {CHECKED[name][column]: check for name, check in _checks(bool(processes), pid, threads).items()}
    )
    actions.pop(-1, None)
    ranges: list[tuple[int, bytes]] = []
    for number in sorted({0, _FIRST_YOUNG_CALL, *actions, *(number + 1 for number in actions)}):
        action = actions.get(number, _UNKNOWN if number >= _FIRST_YOUNG_CALL else _REFUSE)
        if not ranges or ranges[-1][1] != action:
            ranges.append((number, action))
    ranges.append((_X32_CALLS, _REFUSE))  # a second table of the same calls, which would bypass these numbers
    head = [_load(4), _instruction(0x15, 1, 0, ARCHITECTURES[machine]), _give(_KILL), _load(0)]
    return b"".join([*head, _search(ranges)])


def _search(ranges: list[tuple[int, bytes]]) -> bytes:
    """Binary search for the range of the loaded number: few steps per call, and when the kernel tries all
    numbers at the start.
    """
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _search(ranges[:middle]), _search(ranges[middle:])
    skip = len(left) // 8
    if skip < 256:
        return _instruction(0x35, skip, 0, ranges[middle][0]) + left + right
    return _instruction(0x35, 0, 1, ranges[middle][0]) + _instruction(0x05, 0, 0, skip) + left + right


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_PLACEHOLDER = 0x7FFFFFF3  # no process has this id
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def supported() -> bool:
    """Whether the filter knows this machine's system-call numbers."""
    return platform.machine() in ARCHITECTURES


@functools.cache
def _template(processes: bool, threads: bool = True) -> bytes:
    return build_filter(int(processes), _PLACEHOLDER, platform.machine(), threads)


def prepare() -> None:
    """Build the filters ahead of the first check."""
    if supported():
        _template(False)
        _template(True)


def install(processes: int, threads: bool = True) -> None:
    """Put the filter on this process; OSError where the kernel refuses. Does nothing on a machine whose
    numbers are unknown.
    """
    if not supported():
        return
    code = _template(bool(processes), threads).replace(
        struct.pack("=I", _PLACEHOLDER), struct.pack("=I", os.getpid())
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    if _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
