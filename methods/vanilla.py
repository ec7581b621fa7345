"""Vanilla masked-diffusion decoding: a full forward per step, the top-k of a fixed schedule committed.

Dream's ``diffusion_generate`` (origin, maskgit_plus, topk_margin, entropy; one linear time grid over the
whole canvas) and LLaDA's low-confidence remasking (even quotas per block). Lossless baseline of every table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.backbone import Forward
from harness.canvas import Row
from harness.model import ModelSpec
from methods.base import Program, SamplingConfig, Score, SettingError, commit_indices, propose
from methods.hooks import HookedDecoder

Algorithm = Literal["origin", "maskgit_plus", "topk_margin", "entropy", "low_confidence"]

_SCORES: dict[str, Score] = {"topk_margin": "margin", "entropy": "neg_entropy"}


@dataclass(frozen=True)
class Config(SamplingConfig):
    steps: Annotated[int | None, Field(gt=0, description="forward passes over the canvas; default max_new_tokens / tokens_per_step")] = None
    tokens_per_step: Annotated[int, Field(gt=0, description="used when steps is not given")] = 1
    alg: Annotated[Algorithm | None, Field(description="ranking; default entropy (Dream), low_confidence (LLaDA)")] = None
    alg_temp: Annotated[float | None, Field(ge=0.0, description="randomness of the ranking (Dream); 0 = none")] = None
    eps: Annotated[float, Field(gt=0.0, lt=1.0, description="end of the time grid (Dream)")] = 1e-3
    block_length: Annotated[int | None, Field(gt=0, description="semi-autoregressive blocks; default one block")] = None


class Vanilla(HookedDecoder):
    """Dream's hooks may be set on an instance: ``Vanilla(logits_hook, tokens_hook)``; see methods.hooks."""

    name = "vanilla"
    summary = "full forward per step, fixed schedule (Dream / LLaDA reference sampler)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        new = row.length - row.prompt_length
        length = config.block_length or new
        steps = config.steps or max(1, new // config.tokens_per_step)
        if new % length or steps % (new // length):
            blocks = new // length
            raise SettingError(f"block_length {length} must divide max_new_tokens {new}, and its {blocks} blocks must divide steps {steps}")
        alg = config.alg or ("entropy" if spec.shift else "low_confidence")
        per_block = steps // (new // length)
        hooks = self.hooks(row)
        hooks.begin()
        for start in range(row.prompt_length, row.length, length):
            for step in range(per_block):
                at = row.masked(start, start + length)
                logits = yield from hooks.look(Forward(window=(0, row.length), at=at))
                if at:
                    _reveal(row, spec, config, alg, at, logits, step, per_block)
                hooks.written()


def _reveal(row: Row, spec: ModelSpec, config: Config, alg: str, at: list[int], logits: Tensor, step: int, steps: int) -> None:
    last = step == steps - 1
    if alg == "low_confidence":
        # The quota is counted in unwritten places at the block's start: n // steps, the first n % steps get one more.
        done_before = config.block_length or row.length - row.prompt_length
        count = done_before // steps + (1 if step < done_before % steps else 0)
        candidates = propose(logits, row, spec, config, "probability", double=True)
        chosen = torch.topk(candidates.probability, min(count, len(at))).indices.tolist()
    else:
        ratio = _time_ratio(config.eps, step, steps)
        if alg == "origin":
            share = 1.0 if last else float(ratio)
            draws = torch.rand(len(at), generator=row.rng, device=logits.device)
            chosen = (draws < share).nonzero().squeeze(1).tolist()
            candidates = propose(logits, row, spec, config)
        else:
            count = len(at) if last else int(torch.tensor(float(len(at))) * ratio)
            candidates = propose(logits, row, spec, config, _SCORES.get(alg, "probability"))
            chosen = _rank(candidates.score, count, config.alg_temp, row)
    commit_indices(row, at, candidates, sorted(chosen))


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
