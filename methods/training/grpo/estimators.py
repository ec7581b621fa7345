"""Estimators of a diffusion model's log-probability of its own answer.

The exact value needs an average over all orders of decoding. An estimator names a few partly masked canvases
(views) and weights; its estimate of token k is the weighted sum of log p(o^k | view). Which positions a view
masks is a function of the sample's seed alone, so estimates do not depend on batch, worker or the random
numbers drawn elsewhere.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.errors import UserError

Level = Literal["token", "sequence"]


@dataclass(frozen=True)
class Answer:
    """One sampled answer: boolean ``scored`` [canvas] marks its tokens, ``steps`` [canvas] the forward that
    wrote each (-1: none).
    """

    prompt_length: int
    scored: Tensor
    steps: Tensor
    seed: int


@dataclass(frozen=True)
class MaskedView:
    """One partly masked canvas: ``hidden`` [canvas] and ``prompt_hidden`` [prompt] say what is masked,
    ``weight`` [canvas] what counts.
    """

    hidden: Tensor
    weight: Tensor
    prompt_hidden: Tensor


def stream(seed: int, inner: int) -> torch.Generator:
    """Random numbers of one sample in one inner step; local, so that nobody else's draws change."""
    digest = hashlib.sha256(f"masks/{seed}/{inner}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Estimator(ABC):
    """``views`` of one answer. ``level`` says whether ratios are per token or of the whole answer, ``kl``
    which penalty fits.
    """

    name: ClassVar[str]
    level: ClassVar[Level] = "token"
    kl: ClassVar[str] = "low_var_kl"

    @abstractmethod
    def views(self, answer: Answer, inner: int) -> list[MaskedView]:
        """The canvases to look at in inner step ``inner``; weights are 0 outside ``answer.scored``."""


def _view(answer: Answer, hidden: Tensor, weight: Tensor, prompt_hidden: Tensor | None = None) -> MaskedView:
    nothing = torch.zeros(answer.prompt_length, dtype=torch.bool)
    return MaskedView(hidden, weight.float(), nothing if prompt_hidden is None else prompt_hidden)


@dataclass(frozen=True)
class OneStep(Estimator):
    """diffu-GRPO (Zhao et al. 2025, d1): one forward with the whole answer masked, prompt tokens masked with
    ``prompt_rate``.
    """

    prompt_rate: float = 0.15
    name: ClassVar[str] = "one_step"

    def views(self, answer: Answer, inner: int) -> list[MaskedView]:
        noise = torch.rand(answer.prompt_length, generator=stream(answer.seed, inner))
        return [_view(answer, torch.ones_like(answer.scored), answer.scored, noise < self.prompt_rate)]


@dataclass(frozen=True)
class Coupled(Estimator):
    """Coupled-GRPO (Gong et al. 2025, DiffuCoder): the full mask, and a random mask with its complement.

    log pi_k = 1/2 [log p(o^k | all masked) + 1/t log p(o^k | M) or 1/(1-t) log p(o^k | complement)], t
    uniform in [low, high]. Every token is looked at twice. What follows the end of the answer is masked in
    every view.
    """

    low: float = 0.2
    high: float = 0.8
    name: ClassVar[str] = "coupled"

    def views(self, answer: Answer, inner: int) -> list[MaskedView]:
        random = stream(answer.seed, inner)
        t = self.low + (self.high - self.low) * float(torch.rand((), dtype=torch.float64, generator=random))
        chosen = torch.rand(answer.scored.shape, generator=random) < t
        scored, behind = answer.scored, ~answer.scored
        return [
            _view(answer, torch.ones_like(scored), 0.5 * scored),
            _view(answer, chosen | behind, 0.5 / t * (chosen & scored)),
            _view(answer, ~chosen | behind, 0.5 / (1 - t) * (~chosen & scored)),
        ]


@dataclass(frozen=True)
class SequenceELBO(Estimator):
    """ESPO (2025): the evidence lower bound of the whole answer, as one action.

    A mask of l tokens, l uniform in 0..L, with weight (L+1)/l per token, and its complement; ``pairs`` such
    pairs are averaged. Unbiased for the bound. The ratio is exp of the difference divided by L; the penalty
    is k2.
    """

    pairs: int = 1
    name: ClassVar[str] = "espo"
    level: ClassVar[Level] = "sequence"
    kl: ClassVar[str] = "k2"

    def views(self, answer: Answer, inner: int) -> list[MaskedView]:
        random = stream(answer.seed, inner)
        at = answer.scored.nonzero().squeeze(1)
        behind, found = ~answer.scored, []
        for _ in range(self.pairs):
            count = int(torch.randint(len(at) + 1, (), generator=random))
            order = at[torch.randperm(len(at), generator=random)]
            for part in (order[:count], order[count:]):
                if len(part):
                    mask = torch.zeros_like(answer.scored).index_fill(0, part, True)
                    found.append(
                        _view(answer, mask | behind, mask * ((len(at) + 1) / len(part) / (2 * self.pairs)))
                    )
        return found


@dataclass(frozen=True)
class Trace(Estimator):
    """TraceRL (Wang et al. 2025): the canvases the decoder really saw, from the step map; ``merge`` steps are
    taken as one.

    With merge 1 and a decoder without approximate cache the estimate is the log-probability of the sampled
    tokens given the order, without bias or variance. Costs one forward per merged step.
    """

    merge: int = 1
    name: ClassVar[str] = "trace"

    def views(self, answer: Answer, inner: int) -> list[MaskedView]:
        merged = torch.where(answer.steps >= 0, answer.steps // self.merge, torch.iinfo(torch.long).max)
        times = merged[answer.scored].unique().tolist()
        return [_view(answer, merged >= time, (merged == time) & answer.scored) for time in times]


ESTIMATORS: dict[str, type[Estimator]] = {kind.name: kind for kind in (Coupled, OneStep, SequenceELBO, Trace)}


class EstimatorError(UserError, ValueError):
    """An estimator that does not exist."""


def make_estimator(name: str, merge: int = 1, pairs: int = 1) -> Estimator:
    """The estimator called ``name``; ``merge`` and ``pairs`` are settings of trace and espo. EstimatorError
    for an unknown name.
    """
    if name not in ESTIMATORS:
        raise EstimatorError(f"--estimator {name} is unknown; use {', '.join(ESTIMATORS)}")
    settings = {"trace": {"merge": merge}, "espo": {"pairs": pairs}}
    return ESTIMATORS[name](**settings.get(name, {}))
