"""Builds the jail's file system from inside fresh namespaces, for systems that have `unshare` but no
bubblewrap.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    names = (source.encode(), target.encode(), kind.encode() if kind else None)
    _check(_libc.mount(*names, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    _mount(source, target, None, MS_BIND | MS_REC)
    locked = os.statvfs(target).f_flag & (
        MS_NOSUID | MS_NODEV | MS_NOEXEC
    )  # a user namespace may not clear these
    _mount("none", target, None, MS_BIND | MS_REMOUNT | locked | MS_NOSUID | MS_RDONLY)


def enter(plan: dict[str, Any]) -> None:
    """Make `plan["root"]` (an empty folder) the root: read-only binds, links, a work folder of limited size.

    plan: root, binds ([source, target] pairs), links ([text, path] pairs), covers (folders to hide), work,
    work_bytes. Raises OSError where the kernel refuses a step.
    """
    root = plan["root"]
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("jail", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    for source, target in plan["binds"]:
        _bind(source, root + target)
    for text, path in plan["links"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(text, root + path)
    for folder in plan["covers"]:
        _mount("nothing", root + folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k")
    os.makedirs(root + plan["work"])
    _mount(
        "work",
        root + plan["work"],
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={plan['work_bytes']},nr_inodes=20k,mode=0700",
    )
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount old root")
    _mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(plan["work"])


def seal(devices: list[str]) -> None:
    """Make the jail's device nodes, binds of the machine's, read-only: they work as before, but their modes,
    owners and times are fixed.
    """
    for device in devices:
        _mount("none", device, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
