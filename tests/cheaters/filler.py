"""Caught by no_filler: decodes the first half and pads the second with one token that nobody asked the model
about.
"""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "filler"
    summary = "padding as throughput"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        at = row.masked()
        half = len(at) // 2
        logits = yield Forward(feed=(0, row.length), at=at[:half])
        row.commit(at[:half], propose(logits, row, spec, config).ids)
        row.commit(at[half:], [11] * (len(at) - half))


METHOD = Cheat()
