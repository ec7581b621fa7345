"""Vanilla masked-diffusion decoding: a full forward per step, the top-k of a fixed schedule committed.

With ``steps``: Dream's ``diffusion_generate`` (origin, maskgit_plus, topk_margin, entropy; one linear time
grid over the whole canvas) and LLaDA's low-confidence remasking (even quotas per block), token for token.
Without: exactly ``tokens_per_step`` tokens each time, since Dream's grid with steps = length writes none
first and two last, which the hardest places pay for (docs/log.md). Lossless baseline of every table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, SamplingConfig, Score, SettingError, commit_indices, propose
from methods.hooks import HookedDecoder

Algorithm = Literal["origin", "maskgit_plus", "topk_margin", "entropy", "low_confidence"]

_SCORES: dict[str, Score] = {"topk_margin": "margin", "entropy": "neg_entropy"}


@dataclass(frozen=True)
class Config(SamplingConfig):
    steps: Annotated[
        int | None,
        Field(gt=0, description="the published schedule of so many forward passes over the canvas"),
    ] = None
    tokens_per_step: Annotated[
        int, Field(gt=0, description="without steps: exactly so many tokens in each forward pass")
    ] = 1
    alg: Annotated[
        Algorithm | None, Field(description="ranking; default entropy (Dream), low_confidence (LLaDA)")
    ] = None
    alg_temp: Annotated[
        float | None, Field(ge=0.0, description="randomness of the ranking (Dream); 0 = none")
    ] = None
    eps: Annotated[float, Field(gt=0.0, lt=1.0, description="end of the time grid (Dream)")] = 1e-3
    block_length: Annotated[
        int | None, Field(gt=0, description="semi-autoregressive blocks; default one block")
    ] = None


class Vanilla(HookedDecoder):
    """Dream's hooks may be set on an instance: ``Vanilla(logits_hook, tokens_hook)``; see methods.hooks."""

    name = "vanilla"
    summary = "full forward per step, fixed schedule (Dream / LLaDA reference sampler)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        new = row.length - row.prompt_length
        length = config.block_length or new
        per_block = steps_per_block(config, new, length)
        alg = config.alg or ("entropy" if spec.shift else "low_confidence")
        hooks = self.hooks(row)
        hooks.begin()
        for start in range(row.prompt_length, row.length, length):
            for step in range(per_block):
                at = row.masked(start, start + length)
                logits = yield from hooks.look(Forward(feed=(0, row.length), at=at))
                if at:
                    reveal(row, spec, config, alg, at, logits, step, per_block)
                hooks.written()


def steps_per_block(config: Config, new: int, length: int) -> int:
    """Forward passes per block of ``length`` of the ``new`` tokens; raises SettingError where blocks do not
    fit.
    """
    if new % length:
        raise SettingError(f"block_length {length} must divide max_new_tokens {new}")
    if config.steps is None:
        return math.ceil(length / config.tokens_per_step)
    if config.steps % (new // length):
        raise SettingError(
            f"steps {config.steps} must be a multiple of the {new // length} blocks of block_length {length}"
        )
    return config.steps // (new // length)


def reveal(
    row: Row, spec: ModelSpec, config: Config, alg: str, at: list[int], logits: Tensor, step: int, steps: int
) -> None:
    count = _quota(row, config, alg, len(at), step, steps)
    if alg == "origin":
        draws = torch.rand(len(at), generator=row.rng, device=logits.device)
        candidates = propose(logits, row, spec, config)
        if config.steps is None or step == steps - 1:
            chosen = torch.topk(draws, count).indices.tolist()
        else:
            chosen = (draws < float(_time_ratio(config.eps, step, steps))).nonzero().squeeze(1).tolist()
    elif alg == "low_confidence":
        candidates = propose(logits, row, spec, config, "probability", double=True)
        chosen = torch.topk(candidates.probability, count).indices.tolist()
    else:
        candidates = propose(logits, row, spec, config, _SCORES.get(alg, "probability"))
        chosen = _rank(candidates.score, count, config.alg_temp, row)
    commit_indices(row, at, candidates, sorted(chosen))


def _quota(row: Row, config: Config, alg: str, unwritten: int, step: int, steps: int) -> int:
    """How many of the ``unwritten`` places of a block step ``step`` of ``steps`` reveals."""
    if config.steps is None:
        return min(config.tokens_per_step, unwritten)
    if alg == "low_confidence":
        # Counted in unwritten places at the block's start: n // steps, the first n % steps get one more.
        length = config.block_length or row.length - row.prompt_length
        return min(length // steps + (1 if step < length % steps else 0), unwritten)
    if step == steps - 1:
        return unwritten
    return int(torch.tensor(float(unwritten)) * _time_ratio(config.eps, step, steps))


def _time_ratio(eps: float, step: int, steps: int) -> Tensor:
    """1 - s/t on Dream's grid, in float32 as there (the rounding decides how many tokens a step reveals)."""
    grid = torch.linspace(1, eps, steps + 1)
    return 1 - grid[step + 1] / grid[step]


def _rank(score: Tensor, count: int, alg_temp: float | None, row: Row) -> list[int]:
    if count == 0:
        return []
    if not alg_temp:
        return torch.topk(score, count).indices.tolist()
    weights = (score / alg_temp).softmax(-1)
    return torch.multinomial(weights, count, generator=row.rng).tolist()


METHOD = Vanilla()
