"""Fast-dLLM v2: Qwen2.5's body and shift, blocks of ``bd_size``; its mask id stands in published code
alone.
"""

from harness.model.family import Family

FAMILY = Family(name="fast_dllm_qwen", attention="block_causal", block_size=32, mask_id=151665)
