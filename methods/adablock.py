"""AdaBlock-dLLM (arXiv 2509.26432): Fast-dLLM's threshold rule on blocks that adapt to the text. Published
with canvases of 512.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from harness.decoding.settings import TextIds
from harness.model import ModelSpec
from methods.base import Fraction, SettingError
from methods.block_loop import BlockDecoder, RankedConfig


@dataclass(frozen=True)
class Config(RankedConfig):
    threshold: Annotated[float | None, Field(description="accept every score that reaches it")] = 0.9
    delimiter_threshold: Annotated[
        Fraction, Field(description="least probability of the delimiter that ends a block")
    ] = 0.3
    delimiters: Annotated[
        str | None,
        TextIds("\n"),
        Field(
            pattern=r"^\d+(\+\d+)*$|^$",
            description="ids that may end a block, as 198+271; default: line breaks",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache == "d2cache":
            raise ValueError(
                "cache=d2cache feeds no whole block, whose end this method looks for: set another cache"
            )


class AdaBlock(BlockDecoder):
    name = "adablock"
    summary = "threshold decoding on blocks that end at predicted line breaks"
    Config = Config
    rule = "adablock"

    def check(self, spec: ModelSpec, config: Any, new_tokens: int) -> None:
        # No divisor of the canvas: blocks adapt. The cache is checked as for every rule.
        super().check(spec, replace(config, block_length=new_tokens), new_tokens)
        if config.delimiters is None:
            raise SettingError(
                "this model has no tokenizer that knows line breaks: set delimiters to their ids, as "
                "delimiters=198+271"
            )


METHOD = AdaBlock()
