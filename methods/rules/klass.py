"""KLASS (arXiv 2511.05664): tokens whose distribution has stopped moving, and which are confident, are
written together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.rules.confidence import ConfidenceRule, by_factor
from methods.rules.rule import above, at_least, even_quota, ranked
from methods.rules.view import View


class History:
    """Per position: the last distribution and the last ``length`` divergences from one step to the next; both
    start at zero.

    The first divergence is therefore about 27 nats. Memory: positions x vocabulary in ``dtype``.
    """

    def __init__(self, count: int, length: int, dtype: torch.dtype) -> None:
        self.count, self.length, self.dtype = count, length, dtype
        self.last: Tensor | None = None
        self.moved = torch.zeros(count, length, dtype=dtype)

    def update(self, at: list[int], probs: Tensor, unfed: list[int]) -> None:
        """Take the distributions [k, vocab] of places ``at``; ``unfed`` places had a uniform one."""
        if self.last is None:
            self.last = torch.zeros(self.count, probs.shape[1], dtype=self.dtype, device=probs.device)
        vocab = probs.shape[1]
        for places, now in (
            (at, probs.to(self.dtype)),
            (unfed, torch.full((1, vocab), 1 / vocab, dtype=self.dtype, device=probs.device)),
        ):
            if places:
                index = torch.tensor(places, device=probs.device)
                moved = (now * ((now + 1e-12).log() - (self.last[index] + 1e-12).log())).sum(-1).cpu()
                self.moved[places] = torch.cat([self.moved[places][:, 1:], moved.unsqueeze(1)], 1)
                self.last[index] = now.expand(len(places), vocab)

    def stable(self, at: list[int], limit: float) -> list[bool]:
        """Which places have moved by less than ``limit`` in each of the last steps."""
        return (self.moved[at] < limit).all(1).tolist()


class KlassRule(ConfidenceRule):
    """Ready: stable and accepted by threshold (or factor). None ready: the ``num_transfer_tokens`` best,
    stable or not.

    source paper: float32 history; a position that is not fed keeps its own. d2cache: float64, and such a
    position counts as having had a uniform distribution, as there. official (shkim0116/KLASS ad87ecb): LLaDA
    in blocks, confidence above the threshold and not before step H - 1 of a block, else the schedule's quota;
    Dream without blocks, confidence at the threshold or above, else one token. Departures from it: masks that
    are left when ``steps`` run out are decoded on, and a quota larger than what is left never overwrites
    known tokens; unmask_strategy random is left out. From d2cache: ``factor`` works (there it raises).
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        super().__init__(row, spec, config)
        double = config.source != "paper"
        self.history = History(
            row.length - row.prompt_length,
            config.kl_history_length,
            torch.float64 if double else torch.float32,
        )
        self.official, self.shift, self.step = config.source == "official", spec.shift, 0

    @property
    def block_length(self) -> int | None:
        return None if self.official and self.shift else self.config.block_length

    def begin(self, block: Span) -> None:
        self.step = 0

    def wants(self, live: list[int], first: bool) -> list[int]:
        return self.row.masked()

    def confidence(self, view: View) -> Tensor:
        if not self.official:
            return super().confidence(view)
        return view.logits.softmax(-1, dtype=torch.float64).gather(1, view.ids.unsqueeze(1)).squeeze(1)

    def choose(self, view: View, score: Tensor) -> list[int]:
        offset, fed = self.row.prompt_length, set(view.at)
        unfed = (
            [p - offset for p in self.row.masked() if p not in fed] if self.config.source == "d2cache" else []
        )
        probs = view.logits.softmax(-1, dtype=torch.float64) if self.official else view.probs
        places = [position - offset for position in view.at]
        self.history.update(places, probs, unfed)
        stable = self.history.stable(places, self.config.kl_threshold)
        among = [k for k in view.live if stable[k]]
        chosen = self._official(view, score, among) if self.official else self._ready(score, among)
        self.step += 1
        return chosen or ranked(score, view.live)[: self.config.num_transfer_tokens]

    def _ready(self, score: Tensor, among: list[int]) -> list[int]:
        config = self.config
        if config.threshold is not None:
            return at_least(score, config.threshold, among)
        return by_factor(score, config.factor, among) if config.factor is not None else []

    def _official(self, view: View, score: Tensor, among: list[int]) -> list[int]:
        config = self.config
        if self.shift:
            ready = at_least(score, config.threshold, among)
            return self._picked(view, score, ready) if ready else ranked(view.probability, view.live)[:1]
        early = self.step < config.kl_history_length - 1
        ready = [] if early else above(score, config.threshold, among)
        if ready:
            return self._picked(view, score, ready)
        new = self.row.length - self.row.prompt_length
        size = config.block_length or new
        steps = (config.steps or new) * size // new
        return ranked(score, view.live)[: max(even_quota(size, steps, self.step), 1)]

    def _picked(self, view: View, score: Tensor, ready: list[int]) -> list[int]:
        """``ready`` as unmask_strategy narrows it down."""
        if self.config.unmask_strategy == "all":
            return ready
        if self.config.unmask_strategy == "max_conf":
            return ranked(score, ready)[:1]
        moved = self.history.moved[[position - self.row.prompt_length for position in view.at], -1]
        return ranked(-moved, ready)[:1]
