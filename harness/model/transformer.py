"""The transformer behind every backbone: pre-norm RMSNorm, RoPE, GQA, SwiGLU.

Dream-7B is Qwen2.5-7B run bidirectionally; LLaDA-8B is the same block without biases, Qwen3 the
same with a norm per query and key head. One lean module therefore serves all families; parameter
names are Qwen2's (loaders rename LLaDA's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.model.spec import ModelSpec


class Attend(Protocol):
    """How one forward pass attends: what is stored, who sees whom (see harness.decoding.batch)."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mixed values, shaped like ``query`` [batch, heads, query, head_dim]; key and value have
        kv_heads.
        """
        ...


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rotary(nn.Module):
    """Half-split RoPE tables, grown on demand; the first half of ``sin`` carries the rotation's minus."""

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("cos", torch.empty(0, spec.head_dim), persistent=False)
        self.register_buffer("sin", torch.empty(0, spec.head_dim), persistent=False)

    def clear(self, device: torch.device) -> None:
        """Empty tables on ``device``; a module's own ``to_empty`` imports a symbolic algebra for tensors on
        meta, half a second of every start.
        """
        self.cos, self.sin = (torch.empty(0, self.spec.head_dim, device=device) for _ in range(2))

    def grow(self, length: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make the tables cover positions below ``length``; a model in training that was decoded from may go
        on with them.
        """
        if self.cos.shape[0] < length or self.cos.device != device or self.cos.dtype != dtype:
            self._fill(length, device, dtype)

    @torch.inference_mode(False)
    def _fill(self, length: int, device: torch.device, dtype: torch.dtype) -> None:
        length = max(256, 1 << (length - 1).bit_length())
        frequencies, scale = self._frequencies()
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        self.cos = (angles.cos() * scale).to(device, dtype)
        sign = torch.ones(angles.shape[-1])
        sign[: angles.shape[-1] // 2] = -1.0
        self.sin = (angles.sin() * scale * sign).to(device, dtype)

    def _frequencies(self) -> tuple[Tensor, float]:
        spec = self.spec
        if spec.rope_scaling is None:
            exponent = torch.arange(0, spec.head_dim, 2, dtype=torch.float32) / spec.head_dim
            return 1.0 / (spec.rope_theta**exponent), 1.0
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        parameters = {"rope_theta": spec.rope_theta, **spec.rope_scaling}
        kind = parameters.setdefault("rope_type", parameters.get("type", "default"))
        config = LlamaConfig(
            hidden_size=spec.hidden_size,
            num_attention_heads=spec.num_heads,
            head_dim=spec.head_dim,
            max_position_embeddings=spec.max_positions,
            rope_parameters=parameters,
        )
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return frequencies, float(scale)

    def forward(self, positions: Tensor | slice) -> tuple[Tensor, Tensor]:
        """cos, sin of shape [query, head_dim], or [batch, 1, query, head_dim] for 2-D positions."""
        cos, sin = self.cos[positions], self.sin[positions]
        return (cos, sin) if cos.dim() == 2 else (cos.unsqueeze(1), sin.unsqueeze(1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to [batch, heads, query, head_dim], in the tables' precision."""
    wide = x if x.dtype == cos.dtype else x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    turned = wide * cos + torch.cat([second, first], dim=-1) * sin
    return turned if x.dtype == cos.dtype else turned.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = (
            layer,
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
        )
        self.q_proj = nn.Linear(spec.hidden_size, spec.num_heads * spec.head_dim, bias=spec.qkv_bias)
        self.k_proj = nn.Linear(spec.hidden_size, spec.num_kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.v_proj = nn.Linear(spec.hidden_size, spec.num_kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.o_proj = nn.Linear(spec.num_heads * spec.head_dim, spec.hidden_size, bias=spec.o_bias)
        self.q_norm = RMSNorm(spec.head_dim, spec.norm_eps) if spec.qk_norm else None
        self.k_norm = RMSNorm(spec.head_dim, spec.norm_eps) if spec.qk_norm else None

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query [batch, heads, length, head_dim], key and value [batch, kv_heads, length, head_dim] of ``x``
        [batch, length, hidden].
        """
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        return rotate(query, *rope), rotate(key, *rope), self.value(x)

    def value(self, x: Tensor) -> Tensor:
        """Value [batch, kv_heads, length, head_dim]."""
        return self.v_proj(x).view(*x.shape[:2], self.kv_heads, self.head_dim).transpose(1, 2)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, attend: Attend | None, matmul: bool
    ) -> Tensor:
        query, key, value = self.project(x, rope)
        if attend is not None:
            mixed = attend(self.layer, query, key, value)
        else:
            mixed = (
                _matmul_attention(query, key, value, mask) if matmul else attention(query, key, value, mask)
            )
        return self.o_proj(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention with grouped heads; ``mask`` boolean, true = may attend.

    On CUDA no fast kernel takes grouped heads with a mask: there the heads are repeated.
    """
    grouped = query.shape[1] != key.shape[1]
    if grouped and mask is not None and query.is_cuda:
        key, value, grouped = repeated(key, query.shape[1]), repeated(value, query.shape[1]), False
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)


def repeated(part: Tensor, heads: int) -> Tensor:
    """[batch, heads, length, head_dim] of keys or values [batch, kv_heads, length, head_dim], each for its
    group of queries.
    """
    return part.repeat_interleave(heads // part.shape[1], 1)


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    # Training on a CPU: the fused kernel's backward pass is several times slower than plain products.
    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    grouped = query.reshape(batch, key.shape[1], groups * length, size)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, -1) * size**-0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return (weights.view(batch, key.shape[1], groups * length, -1) @ value).view(batch, heads, length, size)


class MLP(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=spec.mlp_bias)
        self.up_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=spec.mlp_bias)
        self.down_proj = nn.Linear(spec.intermediate_size, spec.hidden_size, bias=spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(F.silu(self.gate_proj(x), inplace=True).mul_(self.up_proj(x)))


Pieces = tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor]]
"""``Block.before`` and ``Block.behind``, compiled."""


class Block(nn.Module):
    """One layer. ``compiled``: what stands before and behind attention outside training
    (harness.model.compiled).
    """

    compiled: Pieces | None = None

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(spec, layer)
        self.mlp = MLP(spec)
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.norm_eps)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, attend: Attend | None, matmul: bool
    ) -> Tensor:
        if self.compiled is not None and not torch.is_grad_enabled():
            before, behind = self.compiled
            query, key, value = before(self, x, *rope)
            layer = self.self_attn.layer
            mixed = attention(query, key, value, mask) if attend is None else attend(layer, query, key, value)
            return behind(self, x, mixed)
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, attend, matmul)
        more = self.mlp(self.post_attention_layernorm(x))
        return x + more if torch.is_grad_enabled() else x.add_(more)

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of ``x``, as Attention.project gives them."""
        return self.self_attn.project(self.input_layernorm(x), (cos, sin))

    def behind(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The layer's output of its input and of mixed values [batch, heads, length, head_dim]."""
        batch, length = x.shape[:2]
        x = x + self.self_attn.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return x + self.mlp(self.post_attention_layernorm(x))


class Layers(nn.Module):
    """Embedding, blocks and final norm: the ``model.`` prefix of the checkpoint's names."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(Block(spec, i) for i in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.rotary = Rotary(spec)


class Transformer(nn.Module):
    """Token ids in, hidden states or raw (unshifted) logits out.

    ``matmul_attention``: plain products in place of the fused kernel. ``gradient_checkpointing``: where
    gradients are taken, a block keeps its input alone and is computed again in the backward pass.
    ``spread_over``: devices that the blocks lie on (harness.model.spread).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.model = Layers(spec)
        self.lm_head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)
        if spec.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.matmul_attention = False
        self.gradient_checkpointing = False
        self.spread_over = 1

    def rope(self, positions: Tensor | slice, longest: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Tables of RoPE at ``positions`` (a slice, [query] or [batch, query]), all below ``longest``, for
        inputs as ``like``.
        """
        self.model.rotary.grow(longest, like.device, torch.float32 if self.spec.rope_fp32 else like.dtype)
        return self.model.rotary(positions)

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | slice | None = None,
        mask: Tensor | None = None,
        attend: Attend | None = None,
        longest: int | None = None,
    ) -> Tensor:
        """Final-norm hidden states [batch, query, hidden] of ``ids`` [batch, query], or of embeddings [batch,
        query, hidden].

        ``positions`` (a slice, [query] or [batch, query]) default to 0..query-1, all below ``longest``;
        ``mask`` is boolean, true = may attend, broadcastable to [batch, heads, query, key]; ``attend``
        replaces plain attention under ``mask``.
        """
        x = ids if ids.is_floating_point() else self.model.embed_tokens(ids)
        where = slice(0, ids.shape[1]) if positions is None else positions
        reach = (
            longest
            if longest is not None
            else int(where.stop if isinstance(where, slice) else where.max() + 1)
        )
        rope = self.rope(where, reach, x)
        if x.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()  # compiled layers keep their outputs for one pass
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.model.layers:
            if again:
                x = checkpoint(block, x, rope, mask, attend, self.matmul_attention, use_reentrant=False)
            else:
                x = block(x, rope, mask, attend, self.matmul_attention)
        return self.model.norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Raw logits [..., vocab] of hidden states [..., hidden]."""
        return self.lm_head(hidden)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Raw logits [batch, query, vocab] at every position (training, likelihood)."""
        return self.head(self.hidden(ids, mask=mask))
