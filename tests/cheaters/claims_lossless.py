"""Caught by lossless_equals_reference: calls itself lossless and commits four tokens per forward."""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "claims_lossless"
    summary = "lossless in name only"
    lossless = True

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        while at := row.masked()[:4]:
            logits = yield Forward(feed=(0, row.length), at=at)
            row.commit(at, propose(logits, row, spec, config).ids)


METHOD = Cheat()
