"""Caught by canvas_contract: commits a position again when the model changes its mind."""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "commits_twice"
    summary = "writes positions twice"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        at = row.masked()[:4]
        for _ in range(2):
            logits = yield Forward(feed=(0, row.length), at=at)
            row.commit(at, propose(logits, row, spec, config).ids)


METHOD = Cheat()
