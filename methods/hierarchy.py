"""dInfer's hierarchical rule (arXiv 2510.08666).

threshold and low_threshold: .9 and .3 in its benchmark, .8 and .5 in its presets; .4 is the class default of
the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.base import Fraction
from methods.block_loop import BlockConfig, BlockDecoder


@dataclass(frozen=True)
class DInferConfig(BlockConfig):
    """Settings of both dInfer rules."""

    source: Annotated[Literal["official"], Field(description="whose rule")] = "official"
    threshold: Annotated[Fraction, Field(description="write tokens with a probability above it")] = 0.9
    maximum_unroll: Annotated[
        int, Field(gt=0, description="most passes before looking whether the block is complete")
    ] = 4
    expected_tpf: Annotated[int, Field(gt=0, description="open positions per pass before looking")] = 8
    early_stop: Annotated[
        bool, Field(description="fill what follows a block with end-of-text (reference stop rule)")
    ] = True


@dataclass(frozen=True)
class Config(DInferConfig):
    low_threshold: Annotated[Fraction, Field(description="least probability of a run's best token")] = 0.4


class Hierarchy(BlockDecoder):
    name = "hierarchy"
    summary = "dInfer: the best token of every run of masks, and all above a threshold"
    Config = Config
    rule = "hierarchy"


METHOD = Hierarchy()
