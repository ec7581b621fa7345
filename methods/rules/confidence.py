"""Fixed, threshold, factor and summed entropy: the four ways to say how many of the best scores a step
writes.

As in the block decoder of the d2Cache repository (Kamichanw/d2Cache), which counts ``num_transfer_tokens`` as
a minimum per step. Fast-dLLM's own factor rule differs at the end of the list: it accepts a last candidate
that fails, this one drops even one that passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.rules.rule import Rule, at_least, ranked
from methods.rules.view import View


def by_factor(score: Tensor, factor: float, among: list[int]) -> list[int]:
    """The first j - 1 of the ranking, j the first with (j + 1)(1 - score_j) >= factor, or the last one if
    none is.
    """
    order, values = ranked(score, among), score.tolist()
    for j, k in enumerate(order, 1):
        if (j + 1) * (1 - values[k]) >= factor or j == len(order):
            return order[: j - 1]
    return []


def by_entropy(score: Tensor, entropy: Tensor, gamma: float, among: list[int]) -> list[int]:
    """The longest head of the ranking in which the entropies of all but the last sum up to ``gamma`` at
    most.
    """
    order = ranked(score, among)
    ordered = entropy[torch.tensor(order, device=entropy.device)]
    return order[: int((ordered.cumsum(0) - ordered <= gamma).sum())]


class ConfidenceRule(Rule):
    """``threshold``, ``factor`` or ``gamma`` (at most one), else exactly ``num_transfer_tokens`` of the best
    scores.

    Where fewer than ``num_transfer_tokens`` are accepted, the best so many are written instead.
    """

    def choose(self, view: View, score: Tensor) -> list[int]:
        accepted = self.accept(view, score, view.live)
        need = min(self.config.num_transfer_tokens, len(view.live))
        return accepted if len(accepted) >= need else ranked(score, view.live)[:need]

    def accept(self, view: View, score: Tensor, among: list[int]) -> list[int]:
        """What the rule accepts by itself; nothing without a rule."""
        config = self.config
        if config.threshold is not None:
            return at_least(score, config.threshold, among)
        if config.factor is not None:
            return by_factor(score, config.factor, among)
        if (gamma := getattr(config, "gamma", None)) is not None:
            return by_entropy(score, view.entropy, gamma, among)
        return []
