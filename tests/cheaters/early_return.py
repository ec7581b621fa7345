"""Caught by no_mask_left: stops after a few forwards and leaves masks in the answer."""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "early_return"
    summary = "stops before it is done"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        for position in row.masked()[:3]:
            logits = yield Forward(feed=(0, row.length), at=[position])
            row.commit([position], propose(logits, row, spec, config).ids)


METHOD = Cheat()
