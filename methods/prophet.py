"""Prophet (arXiv 2508.19982): commits everything at once when the answer's tokens are far ahead of their
rivals.

LLaDA's fixed schedule; before each commit the mean gap between the best and the second logit over five answer
positions is compared with a limit that falls in three parts of the schedule. The forward pass that triggers
writes this step's best token at every mask of the canvas. Where the answer stands must be told
(``answer_start``), as there, where a suffix of the prompt fixes it; code has no such place. Departure from
the paper: no ids are forced into the canvas around the answer. As pixeli99/Prophet 460afe4 does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SamplingConfig, SettingError, commit_indices, propose
from methods.block_loop import BlockLength, block_length
from methods.rules.rule import even_quota, ranked

ANSWER_TOKENS = 5


@dataclass(frozen=True)
class Config(SamplingConfig):
    source: Annotated[Literal["official"], Field(description="whose rule")] = "official"
    block_length: BlockLength = 32
    steps: Annotated[int | None, Field(gt=0, description="fixed schedule; default one token per step")] = None
    answer_start: Annotated[
        int | None, Field(ge=0, description="output position of the answer, of which 5 tokens are watched")
    ] = None
    gap_early: Annotated[
        float, Field(description="least mean gap of logits in the first third of the schedule")
    ] = 7.5
    gap_mid: Annotated[float, Field(description="the same up to two thirds")] = 5.0
    gap_late: Annotated[float, Field(description="the same after that")] = 2.5

    def limit(self, progress: float) -> float:
        """The gap that commits everything, at a share of the schedule."""
        return self.gap_early if progress < 0.33 else self.gap_mid if progress < 0.67 else self.gap_late


class Prophet(RowDecoder):
    name = "prophet"
    summary = "fixed schedule; commits everything once the answer's tokens lead clearly"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})
    needs_answer_position = True

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        size = block_length(new_tokens, config.block_length)
        if config.steps is not None and config.steps % (new_tokens // size):
            raise SettingError(
                f"steps {config.steps} must be a multiple of the {new_tokens // size} blocks of "
                f"block_length {size}"
            )
        if config.answer_start is None or config.answer_start >= new_tokens:
            where = f"inside the {new_tokens} new tokens, not {config.answer_start}"
            raise SettingError(f"prophet watches the answer's position: set answer_start to a place {where}")

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        new, first = row.length - row.prompt_length, row.prompt_length
        self.check(spec, config, new)
        size, steps = block_length(new, config.block_length), config.steps or new
        start = first + (config.answer_start or 0)
        answer = range(start, min(start + ANSWER_TOKENS, row.length))
        per_block = steps * size // new
        for step in range(steps):
            block = step // per_block
            at = sorted({*row.masked(), *answer})
            logits = yield Forward((0, row.length), at)
            gap = _gap(logits, [at.index(position) for position in answer])
            left = [k for k, position in enumerate(at) if not row.written(position)]
            candidates = propose(logits, row, spec, config)
            if gap >= config.limit((step + 1) / steps):
                commit_indices(row, at, candidates, left)
                return
            live = [k for k in left if at[k] < first + (block + 1) * size]
            quota = even_quota(size, per_block, step % per_block)
            commit_indices(row, at, candidates, sorted(ranked(candidates.probability, live)[:quota]))


def _gap(logits: Tensor, places: list[int]) -> float:
    """Mean distance of the best from the second logit."""
    top: Any = logits[torch.tensor(places, device=logits.device)].float().topk(2, dim=-1).values
    return float((top[:, 0] - top[:, 1]).mean())


METHOD = Prophet()
