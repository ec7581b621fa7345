"""Qwen3, the causal parent of SDAR and of Tiny-A2D's larger models."""

from __future__ import annotations

from typing import Any

from harness.model.families import efficient_dlm
from harness.model.family import Family


class Qwen3(Family):
    """All that says qwen3 and is not Efficient-DLM."""

    def claims(self, raw: dict[str, Any]) -> bool:
        return super().claims(raw) and not efficient_dlm.FAMILY.claims(raw)


FAMILY = Qwen3(name="qwen3", attention="causal", qk_norm=True, qkv_bias=False)
