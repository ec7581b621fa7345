"""Tiny-A2D (dLLM): Qwen2.5 and Qwen3 turned into diffusion models, predictions in place, blocks that start
where the prompt ends.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.model.family import Family
from harness.model.spec import ModelSpec


class A2D(Family):
    """Both kinds of attention were published with one configuration: full unless it names a block size (or
    the list of models says).
    """

    def spec(self, raw: dict[str, Any]) -> ModelSpec:
        return replace(super().spec(raw), attention="block_causal" if raw.get("block_size") else "full")


QWEN2 = A2D(name="a2d-qwen2", shift=False, block_size=32, block_align="prompt")
QWEN3 = A2D(name="a2d-qwen3", shift=False, block_size=32, block_align="prompt", qk_norm=True, qkv_bias=False)
