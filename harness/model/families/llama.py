"""Llama 2 and 3, SmolLM2: causal references without biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.model.family import Family
from harness.model.spec import ModelSpec


class Llama(Family):
    """Its ``attention_bias`` counts for the output projection too."""

    def spec(self, raw: dict[str, Any]) -> ModelSpec:
        return replace(super().spec(raw), o_bias=raw.get("attention_bias", False))


FAMILY = Llama(name="llama", attention="causal", qkv_bias=False)
