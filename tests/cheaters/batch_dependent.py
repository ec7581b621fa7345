"""Caught by batch_4_equals_batch_1: commits more per forward when rows share one."""

from __future__ import annotations

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, propose
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "batch_dependent"
    summary = "careless in batches"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        width = len(row._meter.rows)
        while at := row.masked()[:width]:
            logits = yield Forward(feed=(0, row.length), at=at)
            row.commit(at, propose(logits, row, spec, config).ids)


METHOD = Cheat()
