"""SDAR: Qwen3's body, blocks of 4 from position 0, predictions in place."""

from harness.model.family import Family

FAMILY = Family(
    name="sdar", shift=False, attention="block_causal", block_size=4, qk_norm=True, qkv_bias=False
)
