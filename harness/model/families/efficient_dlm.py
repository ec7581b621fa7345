"""Efficient-DLM (NVIDIA): Qwen3 in both directions. Its configuration says qwen3, so other keys tell the two
apart.
"""

from __future__ import annotations

from typing import Any

from harness.model.family import Family


class EfficientDLM(Family):
    """Recognised by ``dlm_type`` or its architecture."""

    def claims(self, raw: dict[str, Any]) -> bool:
        return super().claims(raw) and bool(
            raw.get("dlm_type") or "efficientdlm" in str(raw.get("architectures")).lower()
        )


FAMILY = EfficientDLM(
    name="efficient_dlm",
    model_types=("qwen3",),
    shift=False,
    block_size=32,
    qk_norm=True,
    qkv_bias=False,
    weights=((r"encoder", "model"), (r"diffusion_head", "lm_head")),
)
