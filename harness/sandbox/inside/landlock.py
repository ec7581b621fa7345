"""Landlock: file-system (and, on newer kernels, TCP and signal) restrictions for a process and its children,
without namespaces.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from guard import prctl

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
FILE_RIGHTS_BY_ABI = {
    1: 13,
    2: 14,
    3: 15,
    4: 15,
    5: 16,
}  # number of file-system rights each version of the interface knows
NET_RIGHTS, SCOPES = 3, 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: Any) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return int(result)


def version() -> int:
    """The kernel's Landlock interface version. OSError where there is none."""
    return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def restrict(read: list[str], listed: list[str], write: list[str]) -> int:
    """Allow reading below `read`, listing `listed`, everything below `write`; deny all other files, TCP, and
    signals to others.

    Returns the interface version used. OSError where the kernel has no Landlock.
    """
    abi = version()
    every = (1 << FILE_RIGHTS_BY_ABI.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", every, NET_RIGHTS if abi >= 4 else 0, SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(CREATE_RULESET, ctypes.c_char_p(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for paths, rights in ((read, EXECUTE | READ_FILE | READ_DIR), (listed, READ_DIR), (write, every)):
        for path in paths:
            _allow(ruleset, path, rights)
    prctl(38, 1)
    _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE
        rule = struct.pack("=Qi", rights, handle)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.c_char_p(rule), ctypes.c_uint32(0))
    finally:
        os.close(handle)
