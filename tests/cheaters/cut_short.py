"""Caught by answer_not_cut: declares the answer finished after two tokens."""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "cut_short"
    summary = "closes its region at once"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        at = row.masked()[:2]
        logits = yield Forward(feed=(0, row.length), at=at)
        row.commit(at, propose(logits, row, spec, config).ids)
        row.close(at[-1] + 1)


METHOD = Cheat()
