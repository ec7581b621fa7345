"""dInfer's credit rule (arXiv 2510.08666): tokens that stay on top gain in their logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from methods.base import Fraction
from methods.block_loop import BlockDecoder
from methods.hierarchy import DInferConfig


@dataclass(frozen=True)
class Config(DInferConfig):
    credit_alpha: Annotated[float, Field(ge=0.0, description="weight of the credit in the logits")] = 0.7
    boost_gamma: Annotated[
        float, Field(gt=0.0, description="exponent of the probability that a pass adds")
    ] = 0.2
    decay_beta: Annotated[Fraction, Field(description="share of the credit kept from pass to pass")] = 0.8


class Credit(BlockDecoder):
    name = "credit"
    summary = "dInfer: tokens that stay on top from pass to pass gain confidence"
    Config = Config
    rule = "credit"


METHOD = Credit()
