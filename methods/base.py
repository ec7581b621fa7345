"""What decoders share: turning logits into candidate tokens. All that a decoder imports is named here.

A new decoder is one file: a frozen ``Config`` dataclass, a class with ``decode_row`` (a generator that
yields ``Forward`` requests, receives logits and commits tokens) and ``METHOD = ThatClass()``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.candidates import Candidates, Score, Want, greedy, ranking, without_mask
from harness.decoding.decoder import Decoder, Program, RowDecoder, SamplingConfig
from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.settings import SettingError
from harness.model import ModelSpec

__all__ = [
    "Candidates",
    "Decoder",
    "Forward",
    "Program",
    "RowDecoder",
    "SamplingConfig",
    "SettingError",
    "ask",
    "propose",
]


Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class RandomSource(Protocol):
    """Anything with a random stream of its own: a canvas row, or a stand-in for one."""

    @property
    def rng(self) -> torch.Generator: ...


def propose(
    logits: Tensor,
    row: RandomSource,
    spec: ModelSpec,
    config: Any,
    score: Score = "probability",
    double: bool = False,
) -> Candidates:
    """Candidate tokens from aligned logits [k, vocab] (Dream's sampling order: temperature, top-p, top-k).

    The mask id is never a candidate. ``double`` takes the softmax in float64 as LLaDA does.
    """
    temperature = config.temperature
    if temperature > 0:
        logits = filtered(logits / temperature, config.top_p, config.top_k)
    if temperature == 0:
        return greedy(logits, spec.mask_id, Want(score, double))
    probs = logits.softmax(-1, dtype=torch.float64 if double else None)
    ranked = ranking(probs, score)
    if spec.mask_id is not None:
        probs = without_mask(probs, logits, spec.mask_id)
    ids = torch.multinomial(probs, 1, generator=row.rng).squeeze(1)
    chosen = probs.gather(1, ids.unsqueeze(1)).squeeze(1)
    return Candidates(ids, chosen, chosen if ranked is None else ranked)


def ask(
    request: Forward,
    row: RandomSource,
    spec: ModelSpec,
    config: Any,
    score: Score = "probability",
    double: bool = False,
) -> Generator[Forward, Any, Candidates]:
    """Candidates at ``request.at``: computed by the harness for all rows at once if greedy, else drawn from
    this row's logits.

    ``candidates = yield from ask(Forward(...), row, spec, config)`` in a ``decode_row``.
    """
    if config.temperature > 0:
        return propose((yield request), row, spec, config, score, double)
    return (yield request.but(want=Want(score, double)))


def filtered(logits: Tensor, top_p: float | None, top_k: int | None) -> Tensor:
    """Logits [k, vocab] with tokens outside the nucleus, then outside the top k, pushed to the lowest value
    (Dream's filters).
    """
    lowest = torch.finfo(logits.dtype).min
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > top_p)
        logits = logits.masked_fill(drop, lowest)
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, lowest)
    return logits


@cache
def rounded(value: float, dtype: torch.dtype) -> float:
    """``value`` as a tensor of that type holds it, so that it compares as it would there."""
    return torch.tensor(value, dtype=dtype).item()


def above_threshold(confidence: Tensor, threshold: float) -> list[int]:
    """Indices to accept: the most confident one always, and all others not below the threshold."""
    values = confidence.tolist()
    limit = rounded(threshold, confidence.dtype)
    best = max(range(len(values)), key=values.__getitem__)
    return [k for k, value in enumerate(values) if k == best or not value < limit]


def by_factor(confidence: Tensor, factor: float) -> list[int]:
    """Indices to accept by Fast-dLLM's factor rule.

    With confidences sorted downwards, the m-th is accepted while it reaches 1 - factor / (m + 1); the
    first always is. As upstream does, a scan that only fails at the very last one accepts that too.
    """
    order = sorted(range(len(confidence)), key=confidence.tolist().__getitem__, reverse=True)
    values = confidence.tolist()
    accepted = 1
    while accepted < len(order) and values[order[accepted]] >= 1 - factor / (accepted + 2):
        accepted += 1
    if accepted >= len(order) - 1:
        accepted = len(order)
    return sorted(order[:accepted])


def commit_indices(row: Row, at: Sequence[int], candidates: Candidates, indices: Sequence[int]) -> None:
    """Commit the chosen candidates with their probabilities."""
    if len(indices) == len(at):
        row.commit(at, candidates.ids, candidates.probability)
    elif indices:
        ids, probability = candidates.ids.tolist(), candidates.probability.tolist()
        row.commit([at[k] for k in indices], [ids[k] for k in indices], [probability[k] for k in indices])
