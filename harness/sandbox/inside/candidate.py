"""The untrusted side of a check: load the program, then answer calls with plain values until the data socket
closes.

Nothing here is trusted by the other side: the program shares this process and may forge every message, but a
message carries values only.
"""

from __future__ import annotations

import itertools
import random
import socket
from typing import Any

import wire

REQUEST_LIMIT = 64 << 20
BATCH_VALUES = 100_000


def main(request: dict[str, Any], data: socket.socket) -> None:
    """Serve one check. `request`: program, fixtures (code to run after it)."""
    random.seed(0)
    session = _Session()
    failure = session.load(request["program"], request["fixtures"])
    while (message := wire.receive(data, REQUEST_LIMIT)) is not None:
        wire.send(data, failure or session.answer(message))


class _Session:
    def __init__(self) -> None:
        self.space: dict[str, Any] = {}
        self.kept: dict[int, Any] = {}
        self.ids = itertools.count(1)

    def load(self, *sources: str) -> list[Any] | None:
        try:
            for source in sources:
                exec(compile(source, "<candidate>", "exec"), self.space)
        except BaseException as error:
            return ["load", *_describe(error)]
        return None

    def answer(self, message: list[Any]) -> list[Any]:
        try:
            return ["value", *getattr(self, "do_" + message[0])(*message[1:])]
        except BaseException as error:
            return ["raise", *_describe(error)]

    def do_call(self, name: str, args: Any, kwargs: Any) -> list[Any]:
        positional, named = wire.decode(args), wire.decode(kwargs)
        value = self.space[name](*positional, **named)
        after = wire.encode([*positional, *named.values()])
        return [self.encode(value), None if after == ["l", *args[1:], *kwargs[2::2]] else after]

    def do_eval(self, source: str) -> list[Any]:
        return [self.encode(eval(compile(source, "<test>", "eval"), self.space))]

    def do_next(self, ident: int, count: int) -> list[Any]:
        return [self.encode(list(itertools.islice(self.kept[ident], count)))]

    def do_batch(self, name: str, inputs: list[Any]) -> list[Any]:
        """Outputs for the inputs, in order; fewer than asked for when they grow large, so that no message
        does.
        """
        function, outputs, size = self.space[name], [], 0
        for item in inputs:
            try:
                outputs.append(wire.encode(function(*wire.decode(item))))
            except BaseException as error:
                return [outputs, _describe(error)]
            size += wire.weight(outputs[-1])
            if size > BATCH_VALUES:
                break
        return [outputs, None]

    def encode(self, value: Any) -> Any:
        return wire.encode(value, opaque=self.keep)

    def keep(self, value: Any) -> list[Any]:
        if not hasattr(value, "__next__"):
            return ["o", type(value).__name__]
        ident = next(self.ids)
        self.kept[ident] = value
        return ["h", ident, type(value).__name__]


def _describe(error: BaseException) -> list[str]:
    return [type(error).__name__, str(error)[:300]]
