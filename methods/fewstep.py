"""A fixed number of forwards for students of few-step distillation (SDTT, consistency, certainty forcing).

Of the masks left, step i of N commits the share 1 / (N - i) (rounded up), most confident first, so that the
last step takes all that remain: nfe is N by construction (less only if the harness' early exit ends the
answer). With the greedy tail that last step takes the likeliest tokens whatever the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Candidates, Program, SamplingConfig, Score, SettingError, commit_indices, propose
from methods.hooks import HookedDecoder

_SCORES: dict[str, Score] = {
    "confidence": "probability",
    "margin": "margin",
    "entropy": "neg_entropy",
    "random": "probability",
}


@dataclass(frozen=True)
class Config(SamplingConfig):
    steps: Annotated[int, Field(gt=0, description="forward passes over the whole canvas (nfe)")] = 8
    greedy_tail: Annotated[
        bool, Field(description="the last step takes the likeliest tokens even if temperature is above 0")
    ] = True
    order: Annotated[
        Literal["confidence", "margin", "entropy", "random"],
        Field(description="which masks a step commits; random is the ancestral sampler's order"),
    ] = "confidence"
    block_length: Annotated[
        int | None,
        Field(gt=0, description="left-to-right blocks that share the steps evenly; default: one block"),
    ] = None


def quota(left: int, steps_left: int) -> int:
    """Masks to commit now so that ``left`` of them end with the last of ``steps_left`` steps (at least
    one).
    """
    return ceil(left / steps_left)


class FewStep(HookedDecoder):
    """Dream's hooks may be set on an instance; see methods.hooks."""

    name = "fewstep"
    summary = "N forwards with even quotas and a greedy tail (for few-step students)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        hooks = self.hooks(row)
        hooks.begin()
        for start, stop, steps in _blocks(row, config):
            for step in range(steps):
                at = row.masked(start, stop)
                logits = yield from hooks.look(Forward(feed=(0, row.length), at=at))
                last = step == steps - 1
                if at:
                    sampling = replace(config, temperature=0.0) if last and config.greedy_tail else config
                    candidates = propose(logits, row, spec, sampling, _SCORES[config.order])
                    commit_indices(
                        row, at, candidates, _chosen(row, candidates, config, quota(len(at), steps - step))
                    )
                hooks.written()


def _blocks(row: Row, config: Config) -> list[tuple[int, int, int]]:
    """(start, stop, steps) of each block; the first blocks get what does not divide evenly."""
    new = row.length - row.prompt_length
    length = config.block_length or new
    if new % length:
        raise SettingError(f"block_length {length} must divide max_new_tokens {new}; change one of them")
    count = new // length
    if config.steps < count:
        raise SettingError(
            f"steps {config.steps} are fewer than the {count} blocks: raise steps or block_length"
        )
    if config.steps > new:
        raise SettingError(
            f"steps {config.steps} exceed the {new} tokens of the canvas: lower steps, a step commits at "
            "least one token"
        )
    share, extra = divmod(config.steps, count)
    starts = range(row.prompt_length, row.length, length)
    return [(start, start + length, share + (index < extra)) for index, start in enumerate(starts)]


def _chosen(row: Row, candidates: Candidates, config: Config, count: int) -> list[int]:
    ranking: Tensor = candidates.score
    if config.order == "random":
        ranking = torch.rand(len(ranking), generator=row.rng, device=ranking.device)
    return sorted(torch.topk(ranking, count).indices.tolist())


METHOD = FewStep()
