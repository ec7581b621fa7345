"""As whom a jail runs: an id that nobody else has, where this process may choose one."""

from __future__ import annotations

import os
import platform
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Above the ranges of people, systemd, containers and network directories; below the sign bit.
FIRST_ID, IDS = 1_900_000_000, 200_000_000
NOBODY = 65534
CAPABILITIES = {"chown": 0, "setgid": 6, "setuid": 7, "sys_admin": 21}
COUNTS_PER_NAMESPACE = (5, 14)  # since this Linux a user's tasks are counted for each user namespace


@dataclass(frozen=True)
class Identity:
    """user: the id to take in the jail (None: this process' own, without capabilities). own: no other process
    has it. weakness: or "".
    """

    user: int | None
    own: bool
    weakness: str = ""


def has(*names: str) -> bool:
    """Whether this process has these capabilities now."""
    try:
        held = int(re.findall(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)[0], 16)
    except (OSError, IndexError):
        return False
    return all(held >> CAPABILITIES[name] & 1 for name in names)


def privileged() -> bool:
    """Whether this process can make namespaces without a user namespace and take another id in them."""
    return os.geteuid() == 0 and has("chown", "setgid", "setuid", "sys_admin")


def choose(paths: Iterable[Path], whole_way: bool) -> Identity:
    """The identity for a jail that root starts without a user namespace.

    paths: what the jail must read. whole_way: the folders above them must be passable too (the jail keeps the
    machine's root).
    """
    if not has("chown", "setgid", "setuid"):
        return Identity(
            None, False, "programs run as root, without its rights: this process may not change its user"
        )
    for path in paths:
        closed = closed_at(path, whole_way)
        if closed is not None:
            return Identity(
                None, False, f"programs run as root, without its rights: other users cannot read {closed}"
            )
    if _covers(FIRST_ID + IDS):
        return Identity(FIRST_ID + secrets.randbelow(IDS), True)
    return Identity(
        NOBODY, False, f"all programs run as user {NOBODY}: this container has no other id to spare"
    )


def inherited(namespace: bool) -> Identity:
    """The identity of a jail that keeps this process' user; namespace: in a user namespace of its own."""
    if os.geteuid() == 0:
        return Identity(
            None,
            False,
            "programs run as root, without its rights: this process may not make namespaces as root",
        )
    counted = namespace and _kernel() >= COUNTS_PER_NAMESPACE
    return Identity(
        None,
        counted,
        "" if counted else "a program's threads are counted together with all tasks of this machine",
    )


def closed_at(path: Path, whole_way: bool) -> Path | None:
    """The first of the path and (whole_way) the folders above it that is closed to other users."""
    real = path.resolve()
    for place in [*(reversed(real.parents) if whole_way else ()), real]:
        try:
            mode = place.stat().st_mode
        except OSError:
            return place
        wanted = stat.S_IXOTH if place != real else stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        if mode & wanted != wanted:
            return place
    return None


def _covers(number: int) -> bool:
    """Whether this process' user namespace has both a user and a group of this number."""
    for name in ("uid_map", "gid_map"):
        try:
            rows = [
                [int(word) for word in line.split()]
                for line in Path(f"/proc/self/{name}").read_text().splitlines()
            ]
        except (OSError, ValueError):
            return False
        if not any(first <= number < first + count for first, _, count in rows):
            return False
    return True


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
