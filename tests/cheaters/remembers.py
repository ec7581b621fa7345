"""Caught by deterministic: answers from memory, in one forward, when a prompt comes a second time."""

from __future__ import annotations

from typing import ClassVar

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "remembers"
    summary = "a memory of the warm-up"
    memory: ClassVar[dict[tuple[int, ...], list[int]]] = {}

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        known = self.memory.get(tuple(row.prompt))
        if known is None:
            yield from super().decode_row(row, spec, config)
            self.memory[tuple(row.prompt)] = row.output
        else:
            yield Forward(feed=(0, row.length), at=row.masked())
            row.commit(row.masked(), known)


METHOD = Cheat()
