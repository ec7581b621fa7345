"""EB-Sampler (arXiv 2505.24857): as many tokens as a bound on their joint uncertainty allows."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.rules.confidence import ConfidenceRule
from methods.rules.rule import ranked
from methods.rules.view import View


class EntropyBoundRule(ConfidenceRule):
    """source paper: positions ranked by ``alg``, the longest head whose entropies sum up to ``gamma`` when
    the largest is left out.

    official (the baseline in NEUIR/PC-Sampler 8b106b0; the authors published none): the same on the whole
    canvas at once, ranked by entropy. d2cache: the last entropy of the head is left out instead of the
    largest, and entropies are those of the filtered distribution. Departure from its code: there the rows of
    a batch influence each other.
    """

    @property
    def block_length(self) -> int | None:
        return None if self.config.source == "official" else self.config.block_length

    def confidence(self, view: View) -> Tensor:
        return -_entropy(view.logits) if self.config.source == "official" else super().confidence(view)

    def accept(self, view: View, score: Tensor, among: list[int]) -> list[int]:
        if self.config.source == "d2cache":
            return super().accept(view, score, among)
        order = ranked(score, among)
        entropy = _entropy(view.logits[torch.tensor(order, device=score.device)])
        held = entropy.cumsum(0) - entropy.cummax(0).values <= self.config.gamma
        return order[: int(held.sum())]


def _entropy(logits: Tensor) -> Tensor:
    """Entropy [k] of the unfiltered distribution, nats."""
    log = logits.log_softmax(-1)
    return -(log.exp() * log).sum(-1)
