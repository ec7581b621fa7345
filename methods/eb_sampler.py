"""EB-Sampler (arXiv 2505.24857). gamma: 0.1 in the PC-Sampler repository's function, 0.01 in its scripts,
0.001 in d2Cache's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.block_loop import BlockDecoder, RankedConfig
from methods.rules import Algorithm


@dataclass(frozen=True)
class Config(RankedConfig):
    source: Annotated[
        Literal["paper", "official", "d2cache"], Field(description="whose rule; official: no blocks")
    ] = "paper"
    alg: Annotated[Algorithm, Field(description="what ranks the positions")] = "entropy"
    gamma: Annotated[float | None, Field(ge=0.0, description="bound on the summed entropy, nats")] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is None:
            raise ValueError("gamma is the rule itself: set it, or use semi_ar")
        if self.source == "official" and self.cache not in (None, "none"):
            raise ValueError("source=official has no cache: set cache=none or source=paper")


class EBSampler(BlockDecoder):
    name = "eb_sampler"
    summary = "as many tokens per step as a bound on their summed entropy allows"
    Config = Config
    rule = "entropy_bound"


METHOD = EBSampler()
