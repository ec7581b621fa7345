"""Certainty prior (d2Cache, arXiv 2509.23094): confidence times the Gaussian density of what is already known
around a position.

The prior spans the whole generation region whatever the blocks. With alg=entropy scores are negative, so that
it prefers low densities, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from methods.block_loop import BlockDecoder, BlockLength, RankedConfig


@dataclass(frozen=True)
class Config(RankedConfig):
    source: Annotated[Literal["d2cache"], Field(description="whose rule (the authors' own)")] = "d2cache"
    block_length: BlockLength = None
    sigma: Annotated[float | None, Field(gt=0.0, description="width of the prior, positions")] = 10.0


class CertaintyPrior(BlockDecoder):
    name = "certainty_prior"
    summary = "confidence weighted by how much is known around a position"
    Config = Config


METHOD = CertaintyPrior()
