"""AdaBlock-dLLM (arXiv 2509.26432): blocks that end where the model is about to end a line."""

from __future__ import annotations

from typing import Any

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.rules.confidence import ConfidenceRule
from methods.rules.rule import ranked
from methods.rules.view import View


class AdaBlockRule(ConfidenceRule):
    """At a block's first step: the surest delimiter predicted within the next quarter of the canvas ends the
    block if it is sure enough.

    Then the threshold rule. Departures: delimiters are the tokens with a line break in the model's own
    tokenizer (there fixed lists of ids, of LLaDA one id); the first forward pass of a block is one of its
    steps on every family.
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        super().__init__(row, spec, config)
        self.delimiters = {int(text) for text in config.delimiters.split("+") if text}
        self.reach = (row.length - row.prompt_length) // 4

    def begin(self, block: Span) -> None:
        self.start = block[0]

    def wants(self, live: list[int], first: bool) -> list[int]:
        if not first:
            return live
        return sorted({*live, *self.row.masked(self.start, self.start + self.reach)})

    def resize(self, view: View, block: Span) -> Span:
        probability, ids = view.probability.tolist(), view.ids.tolist()
        ends = [k for k, p in enumerate(view.at) if p < self.start + self.reach and ids[k] in self.delimiters]
        best = ranked(view.probability, ends)[:1]
        if best and probability[best[0]] >= self.config.delimiter_threshold:
            return block[0], view.at[best[0]] + 1
        return block
