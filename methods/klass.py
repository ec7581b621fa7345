"""KLASS (arXiv 2511.05664). The scripts tune threshold, kl_threshold and block_length per test set: they are
no defaults here.

Published: Dream threshold .9, kl .001 (MATH .005, HumanEval threshold .8); LLaDA blocks of 64, threshold .6
(HumanEval .9, MBPP .7), kl .01 (GSM8K .015); history 2, steps = max_new_tokens = 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.block_loop import BlockDecoder, RankedConfig


@dataclass(frozen=True)
class Config(RankedConfig):
    source: Annotated[Literal["paper", "official", "d2cache"], Field(description="whose rule")] = "paper"
    threshold: Annotated[float | None, Field(description="least confidence of a stable token")] = 0.9
    kl_threshold: Annotated[float, Field(gt=0.0, description="stable: every divergence below it, nats")] = (
        0.01
    )
    kl_history_length: Annotated[int, Field(gt=0, description="steps over which a token must be stable")] = 2
    unmask_strategy: Annotated[
        Literal["all", "max_conf", "min_kl"], Field(description="which ready tokens (official)")
    ] = "all"
    steps: Annotated[
        int | None,
        Field(gt=0, description="schedule when nothing is ready (official); default one per token"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        official = self.source == "official"
        if official and self.cache not in (None, "none"):
            raise ValueError("source=official has no cache: set cache=none or source=paper")
        if official and (self.threshold is None or self.factor is not None):
            raise ValueError("source=official needs threshold and knows no factor")
        if not official and (self.steps is not None or self.unmask_strategy != "all"):
            raise ValueError(
                f"steps and unmask_strategy belong to source=official, not to source={self.source}"
            )


class Klass(BlockDecoder):
    name = "klass"
    summary = "writes tokens that are confident and whose distribution has stopped moving"
    Config = Config
    rule = "klass"


METHOD = Klass()
