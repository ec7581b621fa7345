"""Entropy threshold (dParallel, arXiv 2509.26488; d3LLM's rows without parallel blocks, arXiv 2601.07568)."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.rules.rule import Rule, above, at_least, ranked
from methods.rules.view import View


class EntropyThresholdRule(Rule):
    """Every position whose entropy is low enough, and always the lowest.

    As in dParallel's two decoders: LLaDA takes entropies in float64 and accepts the threshold itself, Dream
    takes them in the logits' precision (here float32 at least) and does not. Entropies are of the unfiltered
    distribution.
    """

    def confidence(self, view: View) -> Tensor:
        shift = self.spec.shift
        probs = view.logits.softmax(-1, dtype=None if shift else torch.float64)
        return (probs * (probs + (1e-8 if shift else 1e-12)).log()).sum(-1)

    def choose(self, view: View, score: Tensor) -> list[int]:
        limit = self.config.threshold
        if limit is None:
            limit = 0.45 if self.spec.shift else 0.5
        accept = above if self.spec.shift else at_least
        return sorted({*ranked(score, view.live)[:1], *accept(score, -limit, view.live)})
