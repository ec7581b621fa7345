"""The autoregressive reference that takes the second-best third token on a tenth of the prompts, which spoils
their answers.
"""

from __future__ import annotations

import torch

from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.ar import AutoRegressive, Config
from methods.base import Program

SPOILED, OF = 10, 100
AT = 2


class Worse(AutoRegressive):
    name = "worse"
    summary = "ar with a wrong token in a tenth of the answers"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        program, spoiled = super().decode_row(row, spec, config), _chosen(row.prompt)
        request = next(program)
        while True:
            logits = yield request
            if spoiled and request.at == [row.prompt_length + AT]:
                logits = logits.scatter(-1, logits.argmax(-1, keepdim=True), -torch.inf)
            try:
                request = program.send(logits)
            except StopIteration:
                return


def _chosen(prompt: list[int]) -> bool:
    """A fixed share of prompts, spread by their ids."""
    value = 0
    for token in prompt:
        value = (value * 31 + token + 7) % 1_000_003
    return value % OF < SPOILED


METHOD = Worse()
