"""Entropy threshold in blocks: how dParallel and d3LLM checkpoints are decoded without parallel blocks.

Published thresholds: Dream .45; LLaDA .5, for MBPP .45; blocks of 32. Their early stop is commented out and
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from methods.block_loop import BlockConfig, BlockDecoder


@dataclass(frozen=True)
class Config(BlockConfig):
    threshold: Annotated[
        float | None, Field(ge=0.0, description="largest entropy, nats; default .45 (Dream), .5 (LLaDA)")
    ] = None


class EntropyThreshold(BlockDecoder):
    name = "entropy_threshold"
    summary = "writes every token whose entropy is low enough (dParallel, d3LLM)"
    Config = Config
    rule = "entropy_threshold"


METHOD = EntropyThreshold()
