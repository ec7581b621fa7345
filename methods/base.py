"""What decoders share: the protocol, the per-row loop, and turning logits into candidate tokens.

A new decoder is one file: a frozen ``Config`` dataclass, a class with ``decode_row`` (a generator that
yields ``Forward`` requests, receives logits and commits tokens) and ``METHOD = ThatClass()``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.backbone import Backbone, Forward
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas, Row
from harness.decoding.settings import SettingError
from harness.model import ModelSpec

Program = Generator[Forward, Tensor, None]
__all__ = ["Candidates", "Decoder", "Forward", "Program", "RowDecoder", "SamplingConfig", "SettingError", "propose"]

Score = Literal["probability", "margin", "neg_entropy"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class SamplingConfig:
    """Settings that every decoder has."""

    max_new_tokens: Annotated[int | None, Field(gt=0, description="canvas length in tokens; default: the suite's or model's")] = None
    temperature: Annotated[float, Field(ge=0.0, description="0 = greedy")] = 0.0
    top_p: Annotated[float | None, Field(gt=0.0, le=1.0, description="nucleus filter")] = None
    top_k: Annotated[int | None, Field(gt=0, description="keep the k likeliest tokens")] = None


@runtime_checkable
class Decoder(Protocol):
    """The interface the harness runs: see CONTRIBUTING.md for a complete example."""

    name: str
    summary: str
    Config: type[Any]
    requires: frozenset[str]

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        """Fill every row of the canvas."""
        ...


class RowDecoder:
    """Runs one ``decode_row`` program per row and joins their requests into shared forward passes.

    Each row sees exactly what it would see alone, so batch size never changes an answer.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = SamplingConfig
    requires: ClassVar[frozenset[str]] = frozenset()

    def uses_cache(self, config: Any) -> bool:
        """Whether ``decode_row`` needs a KV cache."""
        return False

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        """Yield ``Forward`` requests for one row, receive logits [len(at), vocab], commit tokens."""
        raise NotImplementedError

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        cache: KVCache | None = backbone.new_cache(canvas) if self.uses_cache(config) else None
        programs = {row.index: self.decode_row(row, backbone.spec, config) for row in canvas.rows}
        requests: dict[int, Forward] = {}
        for index, program in programs.items():
            _advance(requests, index, program, None, canvas.rows[index])
        while requests:
            logits = backbone.forward_rows(canvas, requests, cache)
            for index in list(requests):
                _advance(requests, index, programs[index], logits[index], canvas.rows[index])


def _advance(requests: dict[int, Forward], index: int, program: Program, logits: Tensor | None, row: Row) -> None:
    requests.pop(index, None)
    try:
        request = next(program) if logits is None else program.send(logits)
    except StopIteration:
        return
    if row.stopped:
        program.close()
    else:
        requests[index] = request


class Stream(Protocol):
    """Anything with a random stream of its own: a canvas row, or a stand-in for one."""

    @property
    def rng(self) -> torch.Generator: ...


@dataclass
class Candidates:
    """Proposals at k positions: ids [k], the probability of each [k], the ranking score [k]."""

    ids: Tensor
    probability: Tensor
    score: Tensor


def propose(logits: Tensor, row: Stream, spec: ModelSpec, config: Any, score: Score = "probability", double: bool = False) -> Candidates:
    """Candidate tokens from aligned logits [k, vocab] (Dream's sampling order: temperature, top-p, top-k).

    The mask id is never a candidate. ``double`` takes the softmax in float64 as LLaDA does.
    """
    temperature = config.temperature
    if temperature > 0:
        logits = _filter(logits / temperature, config.top_p, config.top_k)
    probs = logits.softmax(-1, dtype=torch.float64 if double else None)
    if score == "neg_entropy":
        ranking = (probs * torch.log(probs + 1e-10)).sum(-1)
    elif score == "margin":
        top = probs.topk(2, dim=-1).values
        ranking = top[:, 0] - top[:, 1]
    if spec.mask_id is not None:
        probs[:, spec.mask_id] = 0.0
        if len(probs) and not probs.sum(-1).all():
            probs = _without_mask(probs, logits, spec.mask_id)
    if temperature > 0:
        ids = torch.multinomial(probs, 1, generator=row.rng).squeeze(1)
        chosen = probs.gather(1, ids.unsqueeze(1)).squeeze(1)
    else:
        chosen, ids = probs.max(-1)
    return Candidates(ids, chosen, chosen if score == "probability" else ranking)  # pyright: ignore[reportPossiblyUnboundVariable]


def _without_mask(probs: Tensor, logits: Tensor, mask_id: int) -> Tensor:
    """Rows where the mask id took all of the probability: the other tokens' shares among themselves, scaled to next to nothing."""
    rest = logits.clone()
    rest[:, mask_id] = -torch.inf
    tiny = torch.finfo(probs.dtype).tiny ** 0.5
    return torch.where(probs.sum(-1, keepdim=True) > 0, probs, rest.softmax(-1, dtype=probs.dtype) * tiny)


def _filter(logits: Tensor, top_p: float | None, top_k: int | None) -> Tensor:
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


def above_threshold(confidence: Tensor, threshold: float) -> list[int]:
    """Indices to accept: the most confident one always, and all others not below the threshold."""
    values = confidence.tolist()
    limit = torch.tensor(threshold, dtype=confidence.dtype).item()
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
