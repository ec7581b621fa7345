"""PC-Sampler (arXiv 2508.13021): confidence corrected for how common a token is anyway, weighted by the
position in the block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from harness.model.frequencies import token_frequencies
from methods.rules.confidence import ConfidenceRule
from methods.rules.rule import even_quota, ranked
from methods.rules.view import View


class PCRule(ConfidenceRule):
    """Score exp(-lambda i) min(-p log f, clip_alpha): p the token's probability, f its frequency in a
    background corpus, i its offset in the block.

    source paper: with ``num_transfer_tokens`` or one of the accepting rules. official (NEUIR/PC-Sampler
    8b106b0): the fixed schedule of ``steps``. d2cache: no position weight. Without a frequency table all
    tokens are equally common, so that p alone decides.
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        super().__init__(row, spec, config)
        path = config.token_freq
        self.frequency = (
            token_frequencies(path, spec) if path else torch.full((spec.vocab_size,), 1 / spec.vocab_size)
        )
        self.clip = 10.0 if config.clip_alpha is None else config.clip_alpha
        self.start, self.step = 0, 0

    def begin(self, block: Span) -> None:
        self.start, self.step = block[0], 0

    def confidence(self, view: View) -> Tensor:
        third_party = self.config.source == "d2cache"
        if third_party and not self.config.debias:
            return super().confidence(view)
        if self.frequency.device != view.ids.device:
            self.frequency = self.frequency.to(view.ids.device)
        surprise = -(self.frequency[view.ids] + (1e-10 if third_party else 1e-9)).log()
        score = (view.probability * surprise).clamp(max=self.clip)
        if third_party:
            return score
        offset = torch.tensor([float(position - self.start) for position in view.at], device=score.device)
        return (-self.config.lambda_ * offset).exp() * score

    def choose(self, view: View, score: Tensor) -> list[int]:
        if self.config.source != "official":
            return super().choose(view, score)
        new = self.row.length - self.row.prompt_length
        size = self.config.block_length or new
        quota = even_quota(size, max((self.config.steps or new) * size // new, 1), self.step)
        self.step += 1
        return ranked(score, view.live)[: max(quota, 1)]
