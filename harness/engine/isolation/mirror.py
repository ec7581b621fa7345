"""In the jail: one row's program, run against a mirror of its row; what it writes goes to the judge with the
next request.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from harness.decoding.candidates import Candidates
from harness.decoding.canvas import Canvas
from harness.decoding.decoder import RowDecoder
from harness.decoding.row import Row
from harness.engine.isolation.memory import Reader
from harness.engine.isolation.messages import WRITES, receive, request_out, send
from harness.model.spec import ModelSpec


class Scribe:
    """Notes each write of a row that the row itself accepted."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.writes: list[list[Any]] = []
        for name, values in WRITES.items():
            self._wrap(name, self._tokens if values > 1 else self._plain)

    def take(self) -> list[list[Any]]:
        """What was written since the last time."""
        writes, self.writes = self.writes, []
        return writes

    def _wrap(self, name: str, note: Any) -> None:
        inner = getattr(self.row, name)

        def outer(*args: Any, **kwargs: Any) -> None:
            inner(*args, **kwargs)
            note(name, *args, **kwargs)

        setattr(self.row, name, outer)

    def _tokens(self, name: str, at: Any, ids: Any, confidence: Any = None) -> None:
        self.writes.append([name, list(at), _plain(ids), None if confidence is None else _plain(confidence)])

    def _plain(self, name: str, value: Any = None, **named: Any) -> None:
        value = value if not named else next(iter(named.values()))
        self.writes.append([name, int(value) if isinstance(value, int) else list(value)])


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values)


class Stops:
    """The judge's search for stop strings: the tokenizer stays on its side."""

    def __init__(self, link: socket.socket, reach: int) -> None:
        self._link, self.reach = link, reach

    def within(self, ids: Sequence[int]) -> bool:
        """As StopStrings.within."""
        return self._ask("within", ids) is True

    def end(self, ids: Sequence[int]) -> int | None:
        """As StopStrings.end."""
        return self._ask("end", ids)

    def _ask(self, what: str, ids: Sequence[int]) -> Any:
        send(self._link, ["stops", what, list(ids)])
        answer = receive(self._link)
        if answer is None:
            raise EOFError("the judge needs no more")
        return answer[0]


def run_row(
    link: socket.socket, reader: Reader, decoder: RowDecoder, spec: ModelSpec, config: Any, canvas: Canvas
) -> None:
    """Run ``decode_row`` to its end; the judge closes the link where it needs no more."""
    row = canvas.rows[0]
    scribe, meter = Scribe(row), canvas.meter
    program = decoder.decode_row(row, spec, config)
    answer: Tensor | Candidates | None = None
    while True:
        try:
            request = next(program) if answer is None else program.send(answer)
        except StopIteration:
            send(link, ["end", scribe.take(), row._rng is not None])
            receive(link)  # ending takes this process milliseconds that the judge's clock should not wait for
            return
        send(link, ["ask", scribe.take(), row._rng is not None, request_out(request)])
        told = receive(link)
        if told is None:
            return
        answer = reader.read(told)
        meter.record(0, (0, 0, 0), 0)
