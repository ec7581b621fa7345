"""What a choosing rule sees of one step: logits, the distribution after the filters, proposed tokens and
their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from harness.decoding.candidates import without_mask
from harness.decoding.policy import Step
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import filtered

Algorithm = Literal["maskgit_plus", "topk_margin", "entropy"]


@dataclass
class View:
    """Unwritten positions ``at`` (ascending, all with logits [k, vocab]) and, among them, those of the block:
    ``live`` [indices].

    Logits and probabilities are float32 at least.
    """

    row: Row
    step: Step
    at: list[int]
    logits: Tensor
    spec: ModelSpec
    config: Any

    def __post_init__(self) -> None:
        if self.logits.dtype != torch.float64:
            self.logits = self.logits.float()
        self.narrow(self.step)

    def narrow(self, step: Step) -> None:
        """Look at another extent of the block."""
        self.step, block = step, set(step.live)
        self.live = [k for k, position in enumerate(self.at) if position in block]

    def raise_logits(self, index: Tensor, by: Tensor) -> None:
        """Add to some positions' logits, [len(index), vocab], before anything was computed from them."""
        self.logits = self.logits.index_add(0, index, by)

    @cached_property
    def probs(self) -> Tensor:
        """[k, vocab] after temperature, top-p and top-k."""
        config = self.config
        logits = self.logits / config.temperature if config.temperature > 0 else self.logits
        return filtered(logits, config.top_p, config.top_k).softmax(-1)

    @cached_property
    def _proposal(self) -> tuple[Tensor, Tensor]:
        """Probability [k] and id [k] of each position's token: never the mask id; the lowest id of equal
        ones.
        """
        mask, probs = self.spec.mask_id, self.probs
        if self.config.temperature > 0:
            probs = without_mask(probs.clone(), self.logits, mask) if mask is not None else probs
            ids = torch.multinomial(probs, 1, generator=self.row.rng).squeeze(1)
            return probs.gather(1, ids.unsqueeze(1)).squeeze(1), ids
        found = probs.max(-1)
        if mask is not None and bool((found.indices == mask).any()):
            found = without_mask(probs.clone(), self.logits, mask).max(-1)
        return found.values, found.indices

    @property
    def ids(self) -> Tensor:
        return self._proposal[1]

    @property
    def probability(self) -> Tensor:
        return self._proposal[0]

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy [k] of the filtered distribution, nats; probabilities clamped to [eps, 1 - eps] inside the
        logarithm.
        """
        eps = torch.finfo(self.probs.dtype).eps
        return -(self.probs * self.probs.clamp(eps, 1 - eps).log()).sum(-1)

    def confidence(self, alg: Algorithm) -> Tensor:
        """[k], larger is surer: probability of the token, margin of the first over the second, or negative
        entropy.
        """
        if alg == "maskgit_plus":
            return self.probability
        if alg == "topk_margin":
            top = self.probs.topk(2, dim=-1).values
            return top[:, 0] - top[:, 1]
        return (self.probs * (self.probs + 1e-10).log()).sum(-1)
