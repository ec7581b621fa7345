"""PC-Sampler (arXiv 2508.13021).

lambda is tuned per task in the scripts: 0 for Sudoku, 0.5 and 1 for Countdown and others, 0.25 for GSM8K and
MATH. ``token_freq`` names a JSON file; see harness.model.frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.model import ModelSpec
from harness.model.frequencies import read_frequencies, token_frequencies
from methods.block_loop import BlockDecoder, RankedConfig


@dataclass(frozen=True)
class Config(RankedConfig):
    source: Annotated[Literal["paper", "official", "d2cache"], Field(description="whose rule")] = "paper"
    token_freq: Annotated[
        str | None, Field(description="JSON file of token counts; none: all tokens equally common")
    ] = None
    lambda_: Annotated[
        float, Field(ge=0.0, description="decay of the score with the offset in the block (paper, official)")
    ] = 0.25
    clip_alpha: Annotated[float | None, Field(gt=0.0, description="largest score; none: 10")] = 10.0
    debias: Annotated[bool, Field(description="correct for token frequencies (d2cache)")] = True
    gamma: Annotated[
        float | None, Field(ge=0.0, description="accept while the entropies of all but the last sum up to it")
    ] = None
    steps: Annotated[
        int | None, Field(gt=0, description="fixed schedule (official); default one token per step")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_freq is not None:
            read_frequencies(self.token_freq)
        if self.alg != "maskgit_plus":
            raise ValueError("the score is made from probabilities: leave alg=maskgit_plus, or use semi_ar")
        if self.source == "official" and self.cache not in (None, "none"):
            raise ValueError("source=official has no cache: set cache=none or source=paper")
        if self.source == "official" and any(
            rule is not None for rule in (self.threshold, self.factor, self.gamma, self.sigma)
        ):
            raise ValueError(
                "source=official writes by its schedule: leave threshold, factor, gamma and sigma out, or "
                "set source=paper"
            )
        if self.source != "official" and self.steps is not None:
            raise ValueError(
                f"steps belongs to source=official; source={self.source} takes num_transfer_tokens"
            )


class PCSampler(BlockDecoder):
    name = "pc_sampler"
    summary = "confidence corrected for token frequency and position"
    Config = Config
    rule = "pc"

    def check(self, spec: ModelSpec, config: Any, new_tokens: int) -> None:
        super().check(spec, config, new_tokens)
        if config.token_freq is not None:
            token_frequencies(config.token_freq, spec)


METHOD = PCSampler()
