"""A decoder behind the glass, to the rest of the harness a decoder like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from harness.decoding.backbone import Backbone
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.settings import TextIds
from harness.engine.isolation.explained import Offers
from harness.engine.isolation.glass import Child, Glass
from harness.engine.isolation.messages import WRITES, Bounds, BrokenMessage
from harness.errors import UserError
from harness.model.spec import ModelSpec
from harness.records.schema import AuditCheck
from harness.sandbox.inside import wire

_BYTES_PER_LOGIT = 24
"""Of shared memory per place of a row, touched only as far as used: the row and five drafts in float32."""


class IsolatedDecoder:
    """One decoder in the jail; ``origin``: see harness.engine.isolation.loading.

    Every row of every call gets a process of its own, made before the clock starts and gone when the call is
    over.
    """

    isolated = True

    def __init__(self, glass: Glass, origin: dict[str, Any]) -> None:
        self.glass, self.origin = glass, origin
        self._desk = glass.child(origin, {"kind": "desk"})
        portrait = self._desk.hear()[1]
        self.name, self.summary = str(portrait["name"]), str(portrait["summary"])
        self.requires = frozenset(str(need) for need in portrait["requires"])
        self.lossless, self.needs_answer_position = (
            portrait["lossless"] is True,
            portrait["needs_answer_position"] is True,
        )
        self.Config = self._config_type(portrait["settings"])
        self._children: list[Child] = []
        self._offers: list[Offers] = []

    def _ask(self, *question: Any) -> Any:
        return self._desk.ask(list(question))[1]

    def _config_type(self, settings: list[Any]) -> type[Any]:
        """A frozen dataclass with the decoder's settings, whose values the decoder's own Config checks and
        converts.
        """
        fields: list[Any] = []
        for name, default, kind, text, mark in settings:
            hint = Annotated[Any, Field(description=str(text)), Kind(str(kind))]
            hint = hint if mark is None else Annotated[hint, TextIds(str(mark))]
            value = wire.decode(default)
            fields.append(
                (
                    str(name),
                    hint,
                    value
                    if isinstance(value, (int, str, float, tuple, type(None)))
                    else dataclasses.field(default=value),
                )
            )
        defaults = {name: wire.decode(default) for name, default, *_ in settings}

        def settle(config: Any) -> None:
            given = {name: getattr(config, name) for name in defaults}
            changed = {name.rstrip("_"): value for name, value in given.items() if value != defaults[name]}
            try:
                values = wire.decode(self._ask("configure", wire.encode(changed)))
            except UserError as error:
                raise ValueError(str(error).removesuffix(f" (method {self.name})")) from None
            for name, value in values.items():
                object.__setattr__(config, name, value)

        return dataclasses.make_dataclass("Config", fields, frozen=True, namespace={"__post_init__": settle})

    def _settings(self, config: Any) -> Any:
        return wire.encode({field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    def check(self, spec: ModelSpec, config: Any, new_tokens: int) -> None:
        """As RowDecoder.check."""
        self._ask("check", spec_out(spec), self._settings(config), new_tokens)

    def uses_cache(self, config: Any) -> bool:
        """As RowDecoder.uses_cache."""
        return self._ask("uses_cache", self._settings(config)) is True

    @contextmanager
    def ready(self, backbone: Backbone, canvas: Canvas, config: Any) -> Iterator[None]:
        """One process per row, waiting with the decoder loaded; outside the clock at both ends."""
        spec = backbone.spec
        rules = canvas.rules
        told = {
            "new_tokens": rules.new_tokens,
            "vocab_size": rules.vocab_size,
            "mask_id": rules.mask_id,
            "eos_ids": sorted(rules.eos_ids),
        }
        told |= {"stop_rule": rules.stop_rule, "first_block": rules.first_block, "blocks": canvas.blocks}
        task = {
            "kind": "row",
            "spec": spec_out(spec),
            "config": self._settings(config),
            "canvas": wire.encode(told),
        }
        task["reach"] = None if rules.stops is None else rules.stops.reach
        self._cached = self.uses_cache(config)
        self._offers = [Offers(row, getattr(config, "temperature", None) == 0) for row in canvas.rows]
        try:
            for row in canvas.rows:
                self._children.append(
                    self.glass.child(
                        self.origin, task, max(row.length * spec.vocab_size * _BYTES_PER_LOGIT, 1 << 12)
                    )
                )
            for child in self._children:
                child.hear()
            yield
        finally:
            while self._children:
                self._children.pop().close()

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        """Answer what the processes ask for, all rows of a round in one forward pass."""
        if not self._children:
            with self.ready(backbone, canvas, config):
                return self.decode(backbone, canvas, config)
        cache: KVCache | None = backbone.new_cache(canvas) if self._cached else None
        requests: dict[int, Forward] = {}
        for row in canvas.rows:
            self._children[row.index].send([row.prompt, row._seed])
        for row in canvas.rows:
            self._advance(requests, row)
        while requests:
            found = backbone.answer_rows(canvas, requests, cache)
            waiting = list(requests)
            for index in waiting:
                child = self._children[index]
                child.send(child.board.write(found[index]))
            for index in waiting:
                self._offers[index].answered(requests[index], found[index])
                self._advance(requests, canvas.rows[index])
        return None

    def findings(self, row: int) -> list[AuditCheck]:
        """What the judge found in a row of the last call, behind the clock: writes that the model's answers
        do not explain.
        """
        faults = self._offers[row].faults()
        return [AuditCheck(name="writes_explained", passed=not faults, detail=_some(faults))]

    def _advance(self, requests: dict[int, Forward], row: Row) -> None:
        requests.pop(row.index, None)
        child = self._children[row.index]
        message = child.hear()
        while message[0] == "stops":
            child.send([_search(row, message)])
            message = child.hear()
        kind, writes, random = [*message, None, None][:3]
        if random is True:
            _ = row.rng
        replay(row, writes, self._offers[row.index].written)
        if kind == "ask" and not row.stopped:
            requests[row.index] = Bounds(row.length, row._rules.vocab_size).request(message[-1])
        elif kind not in ("ask", "end"):
            raise BrokenMessage("a message of no kind")


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the decoder itself describes the values of a setting."""

    text: str


def _search(row: Row, message: list[Any]) -> Any:
    """Where the mirror's text ends by a stop string, for ["stops", "within" or "end", ids]."""
    stops = row._rules.stops
    if stops is None or len(message) != 3:
        raise BrokenMessage("a search for stop strings that there are none of")
    try:
        ids = Bounds(row.length, row._rules.vocab_size).wholes(message[2], row._rules.vocab_size, row.length)
    except ValueError as error:
        raise BrokenMessage(f"a search for stop strings in what are no ids: {error}") from None
    return stops.within(ids) if message[1] == "within" else stops.end(ids)


def spec_out(spec: ModelSpec) -> Any:
    """A model's spec as plain data."""
    return wire.encode({field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)})


def _some(faults: list[str]) -> str:
    return "; ".join(faults[:2]) + (f"; and {len(faults) - 2} more" if len(faults) > 2 else "")


def replay(
    row: Row, writes: Any, look: Callable[[list[int], list[int]], None] = lambda at, ids: None
) -> None:
    """Do on the judge's row what the mirror's was told to do; CanvasError for what it would not have
    accepted.

    ``look`` is told positions and ids before they are written.
    """
    bounds = Bounds(row.length, row._rules.vocab_size)
    if not isinstance(writes, list) or len(writes) > 4 * row.length + 16:
        raise BrokenMessage("a message without its writes, or with too many")
    for write in writes:
        if not isinstance(write, list) or not write or WRITES.get(str(write[0])) != len(write) - 1:
            raise BrokenMessage("a write that no row has")
        try:
            name, values = write[0], write[1:]
            if name in ("commit", "revise"):
                at, ids = (
                    bounds.wholes(values[0], row.length, row.length),
                    bounds.wholes(values[1], bounds.vocab, row.length),
                )
                look(at, ids)
                getattr(row, name)(
                    at, ids, None if values[2] is None else bounds.numbers(values[2], row.length)
                )
            elif name == "divide":
                row.divide(bounds.wholes(values[0], row.length + 1, row.length))
            else:
                getattr(row, name)(bounds.whole(values[0], row.length + 1))
        except (ValueError, TypeError, IndexError) as error:
            raise BrokenMessage(f"a write that is none: {error}"[:200]) from None
