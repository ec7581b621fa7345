"""Vanilla that runs 30% of its forward passes twice: the same answers, 1.3 times the forwards."""

from __future__ import annotations

from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program
from methods.vanilla import Config, Vanilla

WASTED, OF = 3, 10


class Slower(Vanilla):
    name = "slower"
    summary = "vanilla with 30% more forward passes"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        program, debt = super().decode_row(row, spec, config), 0
        request = next(program)
        while True:
            logits = yield request
            debt += WASTED
            if debt >= OF:
                yield request
                debt -= OF
            try:
                request = program.send(logits)
            except StopIteration:
                return


METHOD = Slower()
