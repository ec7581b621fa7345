"""What one family of checkpoints is: how its configuration is recognised and read, and what its weights are
called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.model.spec import Alignment, Attention, ModelSpec


@dataclass(frozen=True)
class Family:
    """A family of checkpoints with the transformer's layers in common, as data; the defaults are Dream's.

    ``name``: what records and messages call it; ``model_types``: the ``model_type`` of its config.json, in
    any case (default: its name).

    ``shift``, ``attention``, ``block_size``, ``block_align``, ``qk_norm``, ``uniform_state``: see ModelSpec;
    ``qkv_bias`` and ``block_size`` count where the configuration does not say. ``mask_id`` counts where
    neither the configuration nor the tokenizer has a mask, ``end_ids`` end an answer besides what they say.

    ``weights``: pairs of a regular expression for the beginning of a name in the checkpoint, up to a dot or
    the end, and our name for it (Qwen2's names: ``model.layers.0.self_attn.q_proj``), which may hold groups
    as ``\\1``. The first match counts; other names stay.

    A family that needs more overrides ``claims`` or ``spec``.
    """

    name: str
    model_types: tuple[str, ...] = ()
    shift: bool = True
    attention: Attention = "full"
    block_size: int | None = None
    block_align: Alignment = "start"
    qk_norm: bool = False
    qkv_bias: bool = True
    uniform_state: bool = False
    mask_id: int | None = None
    end_ids: tuple[int, ...] = ()
    weights: tuple[tuple[str, str], ...] = ()

    def claims(self, raw: dict[str, Any]) -> bool:
        """Whether a ``config.json`` is of this family. Of the installed families only one may claim a
        configuration.
        """
        return str(raw.get("model_type", "")).lower() in (self.model_types or (self.name.lower(),))

    def canonical_name(self, name: str) -> str:
        """Our name of a checkpoint's weight or module."""
        for theirs, ours in self.weights:
            if found := re.match(rf"(?:{theirs})(?=\.|$)", name):
                return found.expand(ours) + name[found.end() :]
        return name

    def spec(self, raw: dict[str, Any]) -> ModelSpec:
        """Translate a ``config.json`` with transformers' keys; KeyError for a missing one."""
        heads = raw["num_attention_heads"]
        scaling = raw.get("rope_scaling") or {}
        parameters = raw.get("rope_parameters") or {}
        if parameters.get("rope_type", "default") != "default":
            scaling = parameters
        return ModelSpec(
            family=self.name,
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            qkv_bias=raw.get("attention_bias", self.qkv_bias),
            mlp_bias=raw.get("mlp_bias", False),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=float(raw.get("rope_theta") or parameters.get("rope_theta") or 10000.0),
            rope_scaling=dict(scaling) or None,
            max_positions=raw.get("max_position_embeddings", 2048),
            tie_embeddings=raw.get("tie_word_embeddings", False),
            bos_id=raw.get("bos_token_id"),
            eos_ids=tuple(dict.fromkeys([*ids(raw.get("eos_token_id")), *self.end_ids])),
            pad_id=raw.get("pad_token_id"),
            mask_id=raw.get("mask_token_id", self.mask_id),
            dtype=raw.get("torch_dtype") or raw.get("dtype"),
            noise_levels=raw.get("noise_levels", 0),
            qk_norm=self.qk_norm,
            shift=self.shift,
            uniform_state=self.uniform_state,
            attention=self.attention,
            block_size=raw.get("bd_size") or raw.get("block_size") or self.block_size
            if self.block_size
            else None,
            block_align=self.block_align,
        )


def ids(value: int | list[int] | None) -> list[int]:
    """The ids of a configuration's entry that may be one id, a list of them or null."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
