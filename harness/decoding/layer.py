"""Inside the layers: what a cache policy may do there, every row of it counted.

A policy that recomputes other positions in every layer, keeps attention or MLP outputs, or looks at attention
weights is given each transformer block as a ``Layer``, for one row of the canvas. All products go through it,
so that work stays true for partial layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.decoding.cache import KVCache
from harness.decoding.settings import SettingError
from harness.model.transformer import Block, Transformer, attention


@dataclass
class LayerCount:
    """What one pass did in the layers: positions queried per layer, and multiply-adds of all linear maps."""

    queries: list[list[int]] = field(default_factory=list)
    products: int = 0


class LayerPolicy(Protocol):
    """A cache policy's part inside the layers. ``uniform``: every layer computes the same rows, those that
    are fed.
    """

    uniform: bool

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        """Hidden states [fed, hidden] of the fed positions behind ``layer``, from those before it."""
        ...


class Layer:
    """One transformer block for one row. ``index`` counts from 0; ``positions`` are those fed; ``length`` is
    the row's.
    """

    def __init__(
        self,
        block: Block,
        index: int,
        positions: Sequence[int],
        model: Transformer,
        cache: KVCache,
        row: int,
        count: LayerCount,
    ):
        self.index, self.positions, self.length = index, positions, cache.capacity
        self._block, self._model, self._cache, self._row, self._count = block, model, cache, row, count

    def norm(self, x: Tensor) -> Tensor:
        """What attention's projections take, of hidden states [n, hidden]."""
        return self._block.input_layernorm(x)

    def value(self, normed: Tensor) -> Tensor:
        """Values [n, kv_heads, head_dim] alone; counted as work, not as queries."""
        self._products(len(normed), self._block.self_attn.v_proj)
        return self._block.self_attn.value(normed[None])[0].transpose(0, 1)

    def project(self, normed: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Query [n, heads, head_dim], key and value [n, kv_heads, head_dim] of n ``positions``, keys and
        queries after RoPE.
        """
        attend = self._block.self_attn
        self._count.queries[self.index] = list(positions)
        self._products(len(normed), attend.q_proj, attend.k_proj, attend.v_proj)
        rope = self._model.rope(torch.tensor(list(positions), device=normed.device), self.length, normed)
        query, key, value = attend.project(normed[None], rope)
        return query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)

    @property
    def keys(self) -> Tensor:
        """The row's stored keys [length, kv_heads, head_dim], to be written in place."""
        return self._cache.keys[self.index][self._cache.place(self._row)]

    @property
    def values(self) -> Tensor:
        """The row's stored values, as ``keys``."""
        return self._cache.values[self.index][self._cache.place(self._row)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output [n, hidden] behind the output projection; ``key`` and ``value`` are those to
        attend to.
        """
        mixed = attention(*(part.transpose(0, 1)[None] for part in (query, key, value)))
        return self._out(mixed[0].transpose(0, 1))

    def attend_weighted(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the attention weights [n, keys], mean over heads."""
        heads = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
        scores = torch.einsum("nhd,khd->hnk", query, key) * query.shape[-1] ** -0.5
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        return self._out(torch.einsum("hnk,khd->nhd", weights, value)), weights.mean(0)

    def _out(self, mixed: Tensor) -> Tensor:
        self._products(len(mixed), self._block.self_attn.o_proj)
        return self._block.self_attn.o_proj(mixed.reshape(len(mixed), -1))

    def feed_forward(self, x: Tensor) -> Tensor:
        """The MLP's output [n, hidden] of hidden states [n, hidden], norm included; to be added to them."""
        mlp = self._block.mlp
        self._products(len(x), mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        return mlp(self._block.post_attention_layernorm(x))

    def _products(self, rows: int, *maps: nn.Module) -> None:
        self._count.products += rows * sum(products_of(part) for part in maps)


def products_of(module: nn.Module) -> int:
    """Multiply-adds per position of the linear maps in ``module``."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def run_layers(
    model: Transformer, ids: Tensor, positions: Sequence[int], policy: LayerPolicy, cache: KVCache, row: int
) -> tuple[Tensor, LayerCount]:
    """Final hidden states [fed, hidden] of ``ids`` [fed] (or embeddings) at ``positions``, and what
    ``policy`` did in the layers.
    """
    if model.spread_over > 1:
        raise SettingError(
            "a cache that works inside the layers needs them on one device: leave --device-map out, or "
            "change --set cache"
        )
    count = LayerCount([[] for _ in model.model.layers])
    x = ids if ids.is_floating_point() else model.model.embed_tokens(ids)
    for index, block in enumerate(model.model.layers):
        x = policy.run(Layer(block, index, positions, model, cache, row, count), x)  # pyright: ignore[reportArgumentType]
    return model.model.norm(x), count
