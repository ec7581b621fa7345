"""Shape and special ids of a model, in one vocabulary for all families."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import UserError

Alignment = Literal["start", "prompt"]
Attention = Literal["full", "block_causal", "causal"]


FETCH = "fetch it again, or change --model"
"""What to do about a checkpoint's file that is damaged."""


class CheckpointError(UserError, ValueError):
    """A checkpoint or adapter that cannot be used, with what to change."""


@dataclass(frozen=True)
class ModelSpec:
    """Shape and special ids of one model.

    ``family``: the name it was registered with (harness.model.family). ``name`` is the checkpoint folder's.

    ``shift`` is true where raw logits at position p predict token p + 1 (Dream, inherited from its
    AR parent, Fast-dLLM v2, and the AR families themselves); LLaDA, SDAR, A2D and uniform-state models
    predict in place. ``uniform_state``: noise is a random token and not a mask.

    ``attention``: what a pass is masked with unless the decoder says otherwise. ``block_size``: tokens per
    block of a model whose blocks can be told to attend to themselves and earlier ones (null: it never learned
    that); ``block_align``: whether these count from position 0, or so that one starts where the prompt ends.
    ``qk_norm``: Qwen3's norms of each head's query and key before RoPE.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool
    o_bias: bool = False
    mlp_bias: bool = False
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = field(default=None, hash=False)
    rope_fp32: bool = False
    max_positions: int = 2048
    tie_embeddings: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    mask_id: int | None = None
    dtype: str | None = None
    noise_levels: int = 0
    name: str = field(default="", compare=False)
    qk_norm: bool = False
    shift: bool = True
    uniform_state: bool = False
    attention: Attention = "full"
    block_size: int | None = None
    block_align: Alignment = "start"

    @property
    def diffusion(self) -> bool:
        """Whether the model attends in both directions (it fills masks, or replaces noise)."""
        return self.attention != "causal"

    @property
    def data_tokens(self) -> int:
        """Size of the vocabulary without the ids that tell a uniform-state model its noise level (the last
        ones).
        """
        return self.vocab_size - self.noise_levels
