"""Dilated unmasking (DUS, arXiv 2506.19037): the control that uses no confidence. A block of 32 takes 5
forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from methods.base import Fraction
from methods.block_loop import BlockConfig, BlockDecoder


@dataclass(frozen=True)
class Config(BlockConfig):
    base: Annotated[int, Field(gt=1, description="by how much the stride shrinks from step to step")] = 2
    skip_threshold: Annotated[
        Fraction | None, Field(description="put off tokens that are not above it; none: put off nothing")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache == "d2cache":
            raise ValueError("cache=d2cache may not feed the positions that are due: set another cache")


class Dilated(BlockDecoder):
    name = "dilated"
    summary = "a fixed schedule of positions far from each other, without confidence"
    Config = Config
    rule = "dilated"


METHOD = Dilated()
