"""The judge's hold on a jail for decoders: started once, asked for a fresh process per row."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.decoding.registry import MethodError
from harness.decoding.settings import SettingError
from harness.engine.isolation.memory import Board
from harness.engine.isolation.messages import BrokenMessage, receive, send
from harness.sandbox import launch
from harness.sandbox.check import JailError, Limits
from harness.sandbox.inside import wire

LIBRARY = (
    *("torch", "torchgen", "functorch", "numpy", "pydantic", "pydantic_core", "annotated_types"),
    *("typing_extensions.py", "typing_inspection", "tqdm", "sympy", "mpmath", "safetensors", "yaml"),
    *("nvidia", "triton"),
)
"""What a decoder may import besides the harness and the methods."""
PRELOAD = (
    "harness.decoding.decoder",
    "methods.base",
    "methods.block_loop",
    "methods.vanilla",
    "methods.d2f",
    "methods.hooks",
)
UNSHOWN = ("models", "training", "__pycache__")
"""Of the folder of methods: weights, and code that reads data."""
SECONDS = 120.0
"""Longest time of a decoder's own code between two requests, and of its processor time per answer."""
START_SECONDS = 120.0
LIMITS = Limits(seconds=SECONDS, memory_mb=24 << 10, threads=1, files=64, file_mb=1)
_NO_MEMORY = 4096


class DecoderError(RuntimeError):
    """What a decoder behind the glass raised, or how its process ended."""


class DecoderTimeout(DecoderError):
    """A decoder that did not come back."""


class Child:
    """A process behind the glass, for one row (or for questions): a link, and memory that it reads."""

    def __init__(self, glass: Glass, pid: int, link: socket.socket, board: Board) -> None:
        self.glass, self.pid, self.link, self.board = glass, pid, link, board

    def ask(self, message: Any) -> list[Any]:
        """Send, and wait for what comes back."""
        self.send(message)
        return self.hear()

    def send(self, message: Any) -> None:
        """Send; a process that is gone is found out when it is heard."""
        try:
            send(self.link, message)
        except OSError:
            return

    def hear(self) -> list[Any]:
        """The next message. Raises DecoderError for what the decoder raised, UserError where it is the user's
        to mend.
        """
        try:
            message = receive(self.link)
        except TimeoutError:
            raise DecoderTimeout(f"the decoder did not come back within {SECONDS:.0f} s") from None
        except OSError:
            message = None
        if message is None:
            raise DecoderError("the decoder's process ended (a refused system call, its memory or its time)")
        if not isinstance(message, list) or not message:
            raise BrokenMessage("a message of no kind")
        if message[0] == "error":
            raise _raised(message)
        return message

    def close(self) -> None:
        """End the process and wipe what it left."""
        self.link.close()
        self.board.close()
        self.glass.end(self.pid)


def _raised(message: list[Any]) -> Exception:
    _, mine, kind, text = [*message, *[""] * 4][:4]
    kind, text = str(kind)[:80], str(text)[:2000]
    if mine is True:
        return (MethodError if kind == "MethodError" else SettingError)(text)
    return BrokenMessage(text) if kind == "CanvasError" else DecoderError(f"{kind}: {text}")


@dataclass(frozen=True)
class Packages:
    """What one jail shows: ``extra``, files and folders of a third party's distribution."""

    extra: tuple[Path, ...] = ()


class Glass:
    """A running jail for decoders. Raises JailError where nothing isolates."""

    def __init__(self, packages: Packages = Packages()) -> None:
        root = Path(__file__).parents[3]
        methods = [path for path in sorted((root / "methods").iterdir()) if path.name not in UNSHOWN]
        library, folders = _library()
        here, there = socket.socketpair()
        shown = [*library, root / "harness", *methods, *packages.extra]
        search = [*folders, *dict.fromkeys(path.parent for path in packages.extra)]
        names = sorted(
            {path.name.removesuffix(".py") for path in (*library, *packages.extra)} | {"harness", "methods"}
        )
        plan = {
            "control": there.fileno(),
            "search": [*map(str, search), str(root)],
            "shown": names,
            "preload": PRELOAD,
        }
        plan["capability"] = torch.backends.cpu.get_cpu_capability().lower()
        script = Path(__file__).parent / "server.py"
        with there:
            self._running = launch.start_guest(
                script,
                [json.dumps(plan)],
                [],
                shown,
                [there.fileno()],
                LIMITS,
                search=[root, *search],
                server=True,
            )
        self._control = here
        self._control.settimeout(START_SECONDS)
        self.owner = os.getpid()
        try:
            hello = wire.receive(self._control, 1 << 16)
        except (OSError, wire.WireError):
            hello = None
        if not isinstance(hello, dict):
            words = None
            with suppress(TimeoutError):
                words = self._running.ending(1)
            self.close()
            raise JailError(
                f"the jail for decoders did not start: {': '.join((words or ['', '', 'it ended'])[1:])}; or "
                "pass --no-isolate"
            )

    def child(self, origin: dict[str, Any], task: dict[str, Any], capacity: int = _NO_MEMORY) -> Child:
        """Fork a process for one task of the decoder of ``origin``; its first message is "ready" or an
        error.
        """
        here, there = socket.socketpair()
        here.settimeout(SECONDS)
        board = Board(capacity)
        with there:
            pid = self._ordered(["fork", origin, task], [there.fileno(), board.handle])
        return Child(self, int(pid), here, board)

    def end(self, pid: int) -> None:
        """Kill a child, and remove its work folder."""
        if self._ordered(["end", pid]) is not True:
            raise JailError("a decoder left files behind that cannot be removed")

    def _ordered(self, order: list[Any], handles: Sequence[int] = ()) -> Any:
        """What the server answers. Raises JailError for one that is gone or does not come back."""
        try:
            socket.send_fds(self._control, [b"."], list(handles))
            wire.send(self._control, order)
            answer = wire.receive(self._control, 1 << 16)
        except TimeoutError:
            seconds = self._control.gettimeout() or 0.0
            raise self._gone(f"did not answer within {seconds:.0f} s (is the machine overloaded?)") from None
        except (OSError, wire.WireError):
            answer = None
        if answer is None:
            raise self._gone("has ended (was it killed, or is memory short?)")
        return answer

    @staticmethod
    def _gone(problem: str) -> JailError:
        return JailError(
            f"the jail for decoders {problem}: run again with less beside it, or pass --no-isolate"
        )

    def close(self) -> None:
        """End the jail with everything in it."""
        self._control.close()
        self._running.kill()


def _library() -> tuple[list[Path], list[Path]]:
    """Places of the library's packages, and the folders that they lie in."""
    found: list[Path] = []
    for name in LIBRARY:
        spec = importlib.util.find_spec(name.removesuffix(".py"))
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin)
            found.append(place if place.name == name else place.parent)
        elif spec is not None and spec.submodule_search_locations:
            found += [Path(place) for place in spec.submodule_search_locations]
    folders = list(dict.fromkeys(place.parent for place in found))
    found += [folder / "numpy.libs" for folder in folders if (folder / "numpy.libs").is_dir()]
    return found, folders


@functools.cache
def glass_for(packages: Packages = Packages()) -> Glass:
    """The process' jail for what shows these packages, started at its first use."""
    glass = Glass(packages)
    atexit.register(glass.close)
    return glass
