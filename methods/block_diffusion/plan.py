"""Settings of block diffusion, and what a preset, the model and the row make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from harness.decoding.masks import BlockCausal
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Fraction, Positive, SamplingConfig, SettingError

Preset = Literal[
    "sdar", "bd3lm", "fast_dllm_v2", "llada2", "llada2_edit", "low_confidence", "joint_threshold"
]
Algorithm = Literal["low_confidence_dynamic", "low_confidence_static", "sequential"]
Cache = Literal["exact", "block", "none"]


@dataclass(frozen=True)
class Config(SamplingConfig):
    """Settings; what is none is taken from the preset, the block size from the model."""

    preset: Annotated[
        Preset | None, Field(description="whose rules; none: those the model was published with")
    ] = None
    block_size: Annotated[Positive | None, Field(description="tokens per block; none: the model's own")] = (
        None
    )
    sub_block_size: Annotated[
        Positive | None, Field(description="a block is filled in parts of so many tokens")
    ] = None
    cache: Annotated[
        Cache | None,
        Field(
            description="exact: finished blocks are stored; block: also the rest of the block "
            "(approximate); none"
        ),
    ] = None
    alg: Annotated[
        Algorithm | None,
        Field(description="commit above the threshold, a fixed number by confidence, or from the left"),
    ] = None
    threshold: Annotated[
        Fraction | None, Field(description="commit every token with a confidence above it")
    ] = None
    num_to_transfer: Annotated[
        Positive | None, Field(description="least number of tokens per pass; none: the schedule's")
    ] = None
    steps_per_block: Annotated[
        Positive | None, Field(description="passes that the schedule spreads a block over")
    ] = None
    steps: Annotated[
        Positive | None, Field(description="bd3lm: passes that its schedule spreads the canvas over")
    ] = None
    minimal_topk: Annotated[
        Positive, Field(description="llada2: no more passes per block than max_new_tokens / minimal_topk")
    ] = 1
    edit_threshold: Annotated[
        Fraction | None,
        Field(
            description="rewrite written tokens of the block whose argmax differs with a confidence above it"
        ),
    ] = None
    max_post_steps: Annotated[Positive, Field(description="editing: passes over a full block")] = 16
    penalty_lambda: Annotated[
        float, Field(ge=0.0, description="joint_threshold: taken from the logit of the token to the left")
    ] = 0.0
    confidence: Annotated[
        Literal["plain", "filtered"],
        Field(description="filtered: probability after top-k and top-p, as SDAR publishes it"),
    ] = "plain"


PRESETS: dict[Preset, Config] = {
    "sdar": Config(cache="exact", alg="low_confidence_dynamic", threshold=0.85),
    "bd3lm": Config(cache="exact", alg="low_confidence_static"),
    "fast_dllm_v2": Config(
        cache="exact", alg="low_confidence_dynamic", threshold=0.9, num_to_transfer=1, sub_block_size=8
    ),
    "llada2": Config(cache="none", alg="low_confidence_dynamic", threshold=0.95),
    "llada2_edit": Config(
        cache="none", alg="low_confidence_dynamic", threshold=0.95, num_to_transfer=1, edit_threshold=0.9
    ),
    "low_confidence": Config(cache="exact", alg="low_confidence_dynamic", threshold=0.95, num_to_transfer=1),
    "joint_threshold": Config(
        cache="exact", alg="low_confidence_dynamic", threshold=0.7, num_to_transfer=1, edit_threshold=0.5
    ),
}


@dataclass(frozen=True)
class RowPlan:
    """One row's settings, complete.

    quotas: least number of tokens in each pass of a block of that many positions. hand_on: the pass that
    stores a block predicts the first token of the next. store_last: the last block is stored too, which the
    answer does not need. closing_look: an edited block is looked at once more after its last pass.
    """

    settings: Config
    mask: BlockCausal
    cache: Cache
    alg: Algorithm
    quotas: Callable[[int], list[int]]
    hand_on: bool
    store_last: bool
    closing_look: bool

    @property
    def block_size(self) -> int:
        return self.mask.size

    def quota(self, quotas: list[int], index: int) -> int:
        """Least number of tokens in pass ``index`` of a block."""
        return self.settings.num_to_transfer or quotas[min(index, len(quotas) - 1)]


def preset_of(config: Config, spec: ModelSpec) -> Preset:
    """The preset asked for, else that of the models with this kind of prediction and blocks."""
    if config.preset is not None:
        return config.preset
    return "fast_dllm_v2" if spec.shift else "bd3lm" if spec.block_align == "prompt" else "sdar"


def plan_of(config: Config, row: Row, spec: ModelSpec) -> RowPlan:
    """SettingError for settings that do not go together or with the model."""
    preset = preset_of(config, spec)
    defaults = PRESETS[preset]
    known = {
        name: getattr(config, name)
        for name in defaults.__dataclass_fields__
        if getattr(config, name) is not None
    }
    settings = replace(defaults, **known)
    size = config.block_size or spec.block_size
    if size is None:
        raise SettingError("this model names no block size: set block_size")
    cache, alg = settings.cache, settings.alg
    assert cache is not None
    assert alg is not None
    if cache == "block" and settings.edit_threshold is not None:
        raise SettingError("cache=block keeps keys of tokens that editing may change: set cache=exact")
    if alg == "low_confidence_dynamic" and settings.threshold is None:
        raise SettingError(f"alg={alg} needs a threshold: set threshold")
    return RowPlan(
        settings,
        BlockCausal(size, row.prompt_length % size if preset == "bd3lm" else 0),
        cache,
        alg,
        _quotas(preset, settings, size, row.length - row.prompt_length),
        hand_on=preset == "fast_dllm_v2" and spec.shift,
        store_last=preset in ("sdar", "low_confidence", "joint_threshold"),
        closing_look=preset == "joint_threshold",
    )


def _quotas(preset: Preset, settings: Config, size: int, new: int) -> Callable[[int], list[int]]:
    if preset == "bd3lm":
        passes = -(-(settings.steps or new) // -(-new // size))
        return lambda places: linear_schedule(places, passes)
    passes = settings.steps_per_block or size
    if preset == "llada2":
        passes = max(1, min(passes, (settings.max_new_tokens or new) // settings.minimal_topk))
    even = [size // passes + (index < size % passes) for index in range(passes)]
    return lambda places: even


def linear_schedule(places: int, passes: int) -> list[int]:
    """Tokens per pass so that the masked share falls linearly: round half to even of left / (passes - i),
    zeros dropped.

    The published code takes the quotient of two shares in float32, and its rounding decides the halves.
    """
    one = torch.tensor(1.0)
    left, counts = places, []
    for index in range(passes):
        now, then = (torch.tensor((passes - index - ahead) / passes) for ahead in (0, 1))
        still_masked = float((one - (one - then)) / (one - (one - now)))
        count = min(round(left * (1 - still_masked)), left)
        left -= count
        if count:
            counts.append(count)
    return counts
