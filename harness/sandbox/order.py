"""What a jail is asked for, and what it may see: the order, the root shown, the paths that may be read."""

from __future__ import annotations

import functools
import json
import os
import site
import sys
import sysconfig
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.sandbox.check import Limits
from harness.sandbox.identity import Identity
from harness.sandbox.scratch import Scratch

Backend = Literal["bubblewrap", "unshare", "landlock+seccomp", "none"]
INSIDE = Path(__file__).parent / "inside"
PYTHON = "/python/bin/python3"
SYSTEM = ("/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
ENVIRONMENT = {
    **{"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PATH": ""},
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
}
INNER_ENVIRONMENT = {**ENVIRONMENT, "LD_LIBRARY_PATH": "/python/lib"}
IN_JAIL = "/jail/runner.py"
WORK = "/room"  # no place that a guest may want to read at
NAMESPACES = ["--net", "--pid", "--ipc", "--uts", "--cgroup", "--mount"]


@dataclass(frozen=True)
class Guest:
    """A whole program for a jail of its own, instead of the checks' fork server.

    script: Python source file. arguments: its `sys.argv[1:]`. path: folders put before `sys.path`, and shown.
    search: the same, but only what the order's `read` names is shown of them.
    descriptors: open files and sockets that it keeps, under their own numbers (from 3).
    server: the script is the harness' own, and forks the processes that are to be confined.
    """

    script: Path
    arguments: tuple[str, ...] = ()
    path: tuple[Path, ...] = ()
    search: tuple[Path, ...] = ()
    descriptors: tuple[int, ...] = ()
    server: bool = False


@dataclass(frozen=True)
class Order:
    """What a backend is to start.

    role: of the runner. read: files and folders shown read-only, at their own place. numpy: shown beside the
    runner. guest: for that role.
    """

    role: Literal["candidate", "judge", "guest"]
    limits: Limits
    numpy: bool = False
    read: tuple[Path, ...] = ()
    guest: Guest | None = None

    def plan(self, mode: str, who: Identity, work: str, **more: Any) -> dict[str, Any]:
        """The runner's plan: see inside/runner.py and, for a guest, inside/guest.py."""
        plan = {
            "role": self.role,
            "mode": mode,
            "user": who.user,
            "own_user": who.own,
            "work": work,
            "fatherly": False,
            **more,
        }
        if self.guest is not None:
            plan.update(
                script=str(self.guest.script),
                arguments=list(self.guest.arguments),
                limits=asdict(self.limits),
            )
            plan.update(
                path=[str(path) for path in (*self.guest.path, *self.guest.search)],
                fatherly=True,
                server=self.guest.server,
            )
        return plan

    def shown(self) -> tuple[Path, ...]:
        """What the guest needs besides the interpreter."""
        return (*self.read, *(self.guest.path if self.guest else ()))


@dataclass(frozen=True)
class Launch:
    """How to start one jail: the command, its environment, a folder to discard afterwards, and where to
    start.
    """

    command: list[str]
    scratch: Scratch | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))
    folder: Path | None = None


@functools.cache
def interpreter() -> tuple[str, str, str]:
    """Paths of the real interpreter, its standard library and its shared library ("" when it is linked
    statically).
    """
    library = sysconfig.get_config_var("LIBDIR") or ""
    shared = os.path.join(library, str(sysconfig.get_config_var("INSTSONAME") or ""))
    return (
        os.path.realpath(sys.executable),
        sysconfig.get_path("stdlib"),
        shared if shared.endswith(".so") or ".so." in shared else "",
    )


@functools.cache
def system_paths() -> list[str]:
    """Where the system keeps shared libraries: the folder of this processor where there is one, else all of
    /usr/lib.
    """
    own = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    return [path for path in (own if os.path.isdir(own) else "/usr/lib", *SYSTEM) if os.path.exists(path)]


def packages(numpy: bool) -> list[Path]:
    """Folders of the optional packages that programs may import."""
    if not numpy:
        return []
    import numpy as module

    folder = Path(module.__file__).parent
    return [path for path in (folder, folder.parent / "numpy.libs") if path.is_dir()]


def hidden_folders() -> list[str]:
    """Folders with installed packages: they may hold benchmark data with its answers, so no jail shows
    them.
    """
    names = {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
        *site.getsitepackages([sys.base_prefix]),
    }
    stdlib = interpreter()[1]
    names |= {os.path.join(stdlib, name) for name in ("site-packages", "dist-packages")} | {
        "/usr/lib/python3"
    }
    return sorted(os.path.realpath(name) for name in names if os.path.isdir(name))


@dataclass(frozen=True)
class RootView:
    """What a jail with a root of its own sees: read-only binds (source, target), symbolic links (text, path),
    folders to cover.
    """

    binds: list[tuple[str, str]]
    links: list[tuple[str, str]]
    covers: list[str]


def view(order: Order) -> RootView:
    """The interpreter under /python, the system's shared libraries, the runner under /jail, numpy beside it,
    and what is asked for.
    """
    binary, stdlib, shared = interpreter()
    system = system_paths()
    binds = [(binary, PYTHON), (stdlib, f"/python/lib/{os.path.basename(stdlib)}")]
    binds += [(shared, f"/python/lib/{os.path.basename(shared)}")] if os.path.exists(shared) else []
    binds += [(path, path) for path in system if not os.path.islink(path)]
    covers = [
        target + folder[len(source) :]
        for folder in hidden_folders()
        for source, target in binds
        if folder.startswith(source + "/")
    ]
    binds += [
        (str(path), f"/jail/{path.name}") for path in (*sorted(INSIDE.glob("*.py")), *packages(order.numpy))
    ]
    binds += [(str(path), str(path)) for path in order.shown()]
    return RootView(
        binds, [(os.readlink(path), path) for path in system if os.path.islink(path)], sorted(set(covers))
    )


def readable(order: Order) -> list[str]:
    """The same for a jail that keeps the machine's root: paths whose contents may be read."""
    binary, stdlib, shared = interpreter()
    paths = [path for path in (binary, stdlib, shared, *system_paths()) if os.path.exists(path)]
    found = [part for path in paths for part in _without(os.path.realpath(path), hidden_folders())]
    return [
        *found,
        str(INSIDE),
        *(str(path) for path in (*packages(order.numpy), *order.shown())),
        *DEVICES[1:],
    ]


def _without(path: str, hidden: list[str]) -> list[str]:
    if path in hidden:
        return []
    if not any(folder.startswith(path + "/") for folder in hidden):
        return [path]
    return [part for name in sorted(os.listdir(path)) for part in _without(os.path.join(path, name), hidden)]


def python(runner: str, plan: dict[str, Any]) -> list[str]:
    binary = PYTHON if runner == IN_JAIL else interpreter()[0]
    return [binary, "-s", "-S", "-B", runner, json.dumps(plan)]


def needed(order: Order) -> list[Path]:
    """Files and folders whose modes tell whether a user without rights can run Python in the jail."""
    binary, stdlib, _ = interpreter()
    return [
        Path(binary),
        Path(stdlib),
        Path(stdlib, "os.py"),
        INSIDE / "runner.py",
        *packages(order.numpy),
        *order.shown(),
    ]
