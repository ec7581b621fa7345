"""Chat templates rendered in a process of their own.

A template is a program of the checkpoint. Jinja's sandbox keeps it from files and modules, but not from
looping or filling the memory for ever; a process can be ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from harness.records.outside import one_line

SECONDS = 30.0
"""Wall time of one rendering; templates that people write take milliseconds."""
MEMORY = 1 << 30
"""Bytes that rendering may take beyond what the process had."""
_LENGTH = 8


class RenderingError(Exception):
    """What a template did instead of rendering."""


class Renderer:
    """The chat template of one tokenizer, in a fork of this process that ends with it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.template = tokenizer, tokenizer.chat_template
        self._socket, there = socket.socketpair()
        self._process = os.fork()
        if self._process == 0:
            _serve(there, tokenizer)
        there.close()

    def render(self, messages: Any, options: dict[str, Any]) -> str:
        """Text of the messages. RenderingError for a template that raises, does not end or dies; then this
        object is of no more use.
        """
        try:
            self._socket.settimeout(SECONDS)
            _send(self._socket, {"messages": messages, **options})
            answer = _receive(self._socket)
        except TimeoutError:
            self.close()
            raise RenderingError(f"it does not end within {SECONDS:g} s") from None
        except (OSError, ValueError):
            self.close()
            raise RenderingError("its process ended without an answer") from None
        if not isinstance(answer.get("text"), str):
            self.close()
            raise RenderingError(one_line(str(answer.get("fault"))))
        return answer["text"]

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        with contextlib.suppress(OSError):
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)


def _serve(there: socket.socket, tokenizer: Any) -> NoReturn:
    """The fork: answers until the other side is gone, and keeps nothing open that was its parent's."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _close_all_but(there.fileno())
        _bound_memory()
        while True:
            told = _receive(there)
            try:
                text = tokenizer.apply_chat_template(told.pop("messages"), tokenize=False, **told)
                answer = {"text": text}
            except Exception as fault:
                answer = {"fault": f"{type(fault).__name__}: {fault}"}
            _send(there, answer)
    finally:
        os._exit(0)


def _close_all_but(kept: int) -> None:
    """A lock or a pipe of the parent must not outlive it here."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _bound_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _send(to: socket.socket, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    to.sendall(len(body).to_bytes(_LENGTH, "big") + body)


def _receive(sender: socket.socket) -> dict[str, Any]:
    """The next message; ConnectionError where the other side is gone."""
    size = int.from_bytes(_exactly(sender, _LENGTH), "big")
    if size > MEMORY:
        raise ValueError("a message without end")
    return json.loads(_exactly(sender, size))


def _exactly(sender: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = sender.recv(min(size - len(found), 1 << 20))
        if not part:
            raise ConnectionError("the other side is gone")
        found += part
    return bytes(found)


_turn = threading.Lock()
_current: list[Renderer] = []
"""The renderer of the tokenizer in use; a run asks for one after the other."""


def rendered(tokenizer: Any, messages: Any, **options: Any) -> str:
    """Messages as the tokenizer's chat template writes them. RenderingError for a template that does not."""
    if sys.platform != "linux":  # a fork is safe nowhere else
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as fault:
            raise RenderingError(one_line(str(fault))) from None
    with _turn:
        own = next((one for one in _current if one.tokenizer is tokenizer), None)
        if own is None or own.template != tokenizer.chat_template:
            while _current:
                _current.pop().close()
            own = Renderer(tokenizer)
            _current.append(own)
        try:
            return own.render(messages, options)
        except RenderingError:
            _current.clear()
            raise
