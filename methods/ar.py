"""Autoregressive reference: a causal model, one token per forward, exact KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.forward import Forward
from harness.decoding.masks import CAUSAL
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SamplingConfig, ask, commit_indices


@dataclass(frozen=True)
class Config(SamplingConfig):
    """No settings of its own."""


class AutoRegressive(RowDecoder):
    name = "ar"
    summary = "causal reference model, one token per forward"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"causal_lm"})

    def uses_cache(self, config: Config) -> bool:
        return True

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        start = 0
        for position in range(row.prompt_length, row.length):
            request = Forward(feed=(start, position), at=[position], keep=(start, position), mask=CAUSAL)
            commit_indices(row, [position], (yield from ask(request, row, spec, config)), [0])
            start = position
            if row.ends_answer(position, row.token(position)):
                row.close(position + 1)
                return


METHOD = AutoRegressive()
