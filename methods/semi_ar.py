"""The plain block decoder of the d2Cache repository: a fixed number, a threshold or the factor rule per step,
on any cache.

LLaDA with a threshold gives Fast-dLLM's ids; Dream does not (no forced first token of a block, no time grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.block_loop import BlockDecoder, RankedConfig


@dataclass(frozen=True)
class Config(RankedConfig):
    source: Annotated[Literal["d2cache"], Field(description="whose rule")] = "d2cache"


class SemiAr(BlockDecoder):
    name = "semi_ar"
    summary = "block decoder: fixed number, threshold or factor per step, any cache"
    Config = Config


METHOD = SemiAr()
