"""What a checkpoint's ``config.json`` says, in one vocabulary for all families."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from harness.errors import UserError
from harness.model.ending import end_ids

Family = Literal[
    "dream", "llada", "qwen2", "qwen3", "llama", "uniform", "a2d-qwen2", "a2d-qwen3", "sdar", "fast_dllm_qwen", "efficient_dlm"
]
Alignment = Literal["start", "prompt"]
Attention = Literal["full", "block_causal", "causal"]

IN_PLACE = ("llada", "uniform", "a2d-qwen2", "a2d-qwen3", "sdar", "efficient_dlm")
"""Families whose logits at a position predict that position's token."""
CAUSAL_FAMILIES = ("qwen2", "qwen3", "llama")
QK_NORM = ("qwen3", "a2d-qwen3", "sdar", "efficient_dlm")
"""Families with Qwen3's body: norms of each head's query and key before RoPE, no biases."""


class CheckpointError(UserError, ValueError):
    """A checkpoint or adapter that cannot be used, with what to change."""


@dataclass(frozen=True)
class ModelSpec:
    """Shape and special ids of one model.

    ``shift`` is true where raw logits at position p predict token p + 1 (Dream, inherited from its
    AR parent, Fast-dLLM v2, and the AR families themselves); LLaDA, SDAR, A2D and uniform-state models predict in place.
    ``name`` is the checkpoint folder's.

    ``attention``: what a pass is masked with unless the decoder says otherwise. ``block_size``: tokens per block of a model whose blocks
    can be told to attend to themselves and earlier ones (null: it never learned that); ``block_align``: whether these count from position
    0, or so that one starts where the prompt ends. ``qk_norm``: see QK_NORM.
    """

    family: Family
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
    attention: Attention = "full"
    block_size: int | None = None
    block_align: Alignment = "start"

    @property
    def shift(self) -> bool:
        return self.family not in IN_PLACE

    @property
    def diffusion(self) -> bool:
        """Whether the model attends in both directions by default (it fills masks, or replaces noise)."""
        return self.family not in CAUSAL_FAMILIES

    @property
    def uniform_state(self) -> bool:
        """Whether noise is a random token and not a mask."""
        return self.family == "uniform"

    @property
    def data_tokens(self) -> int:
        """Size of the vocabulary without the ids that tell a uniform-state model its noise level (the last ones)."""
        return self.vocab_size - self.noise_levels

    @classmethod
    def from_folder(cls, folder: Path) -> ModelSpec:
        """Read ``config.json``, and ``generation_config.json`` and the tokenizer's files for further ids that end an answer.

        Raises CheckpointError for a missing file or a family we do not know.
        """
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise CheckpointError(f"no config.json in {folder}: --model must name a checkpoint folder") from None
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path} is not valid JSON ({error})") from None
        generation = folder / "generation_config.json"
        if generation.exists():
            raw = {**raw, "eos_token_id": _ids(raw.get("eos_token_id")) + _ids(json.loads(generation.read_text()).get("eos_token_id"))}
        if raw.get("mask_token_id") is None:
            found = None if family_of(raw) in CAUSAL_FAMILIES else mask_in_tokenizer(folder)
            raw = {key: value for key, value in raw.items() if key != "mask_token_id"} | ({} if found is None else {"mask_token_id": found})
        spec = cls.from_config(raw)
        further = [token for token in end_ids(folder, spec.pad_id, (spec.mask_id, spec.bos_id)) if token < spec.vocab_size]
        return replace(spec, name=folder.name, eos_ids=tuple(dict.fromkeys([*spec.eos_ids, *further])))

    @classmethod
    def from_config(cls, raw: dict[str, Any]) -> ModelSpec:
        """Translate one ``config.json`` dictionary."""
        kind = family_of(raw)
        try:
            if kind == "llada":
                return _llada(raw)
            return _qwen_like(raw, kind)
        except KeyError as error:
            raise CheckpointError(f"config.json ({kind}) lacks the key {error}") from None


def family_of(raw: dict[str, Any]) -> Family:
    """The family of a ``config.json``. ``model_type`` alone does not tell: Efficient-DLM says qwen3, LLaDA-MoE says llada.

    Raises CheckpointError for an unknown family, and by name for mixtures of experts.
    """
    named = str(raw.get("model_type", ""))
    kind = named.lower()
    architecture = str(next(iter(raw.get("architectures") or []), named))
    if raw.get("num_experts") or raw.get("n_routed_experts") or raw.get("num_local_experts") or "moe" in kind:
        count = raw.get("num_experts") or raw.get("n_routed_experts") or raw.get("num_local_experts")
        text = f"{architecture} (model_type {named}) is a mixture of {count} experts, which are not built here"
        raise CheckpointError(f"{text}: --model needs a dense model such as GSAI-ML/LLaDA-8B-Instruct or JetLM/SDAR-1.7B-Chat")
    if kind == "qwen3" and (raw.get("dlm_type") or "efficientdlm" in architecture.lower()):
        return "efficient_dlm"
    if kind not in get_args(Family):
        known = "Dream, llada, a2d-qwen3, a2d-qwen2, sdar, Fast_dLLM_Qwen, qwen3 (also Efficient-DLM), qwen2, llama, uniform"
        raise CheckpointError(f"model_type {raw.get('model_type')!r} is not supported; known: {known}")
    return cast("Family", kind)


MASK_TOKENS = ("<|mask|>", "<|MASK|>", "|<MASK>|")
"""How the published tokenizers write their mask."""
MASK_IDS: dict[str, int] = {"fast_dllm_qwen": 151665}
"""Mask ids that stand in published code alone."""


def mask_in_tokenizer(folder: Path) -> int | None:
    """The mask id that ``tokenizer_config.json`` or ``added_tokens.json`` tells: its mask token, else a token written like a mask."""
    path, more = folder / "tokenizer_config.json", folder / "added_tokens.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    added = {entry["content"]: int(key) for key, entry in (told.get("added_tokens_decoder") or {}).items()}
    added |= json.loads(more.read_text()) if more.exists() else {}
    mask = told.get("mask_token")
    written = mask.get("content") if isinstance(mask, dict) else mask
    return next((added[text] for text in (written, *MASK_TOKENS) if text in added), None)


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _eos(raw: dict[str, Any], *extra: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys([*_ids(raw.get("eos_token_id")), *extra]))


def _qwen_like(raw: dict[str, Any], family: Family) -> ModelSpec:
    heads = raw["num_attention_heads"]
    scaling = raw.get("rope_scaling") or {}
    parameters = raw.get("rope_parameters") or {}
    if parameters.get("rope_type", "default") != "default":
        scaling = parameters
    return ModelSpec(
        family=family,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        qkv_bias=raw.get("attention_bias", family not in ("llama", "uniform", *QK_NORM)),
        o_bias=family == "llama" and raw.get("attention_bias", False),
        mlp_bias=raw.get("mlp_bias", False),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=float(raw.get("rope_theta") or parameters.get("rope_theta") or 10000.0),
        rope_scaling=dict(scaling) or None,
        max_positions=raw.get("max_position_embeddings", 2048),
        tie_embeddings=raw.get("tie_word_embeddings", False),
        bos_id=raw.get("bos_token_id"),
        eos_ids=_eos(raw),
        pad_id=raw.get("pad_token_id"),
        mask_id=raw.get("mask_token_id", MASK_IDS.get(family)),
        dtype=raw.get("torch_dtype") or raw.get("dtype"),
        noise_levels=raw.get("noise_levels", 0),
        qk_norm=family in QK_NORM,
        attention=_attention(raw, family),
        block_size=_block_size(raw, family),
        block_align="prompt" if family.startswith("a2d") else "start",
    )


BLOCK_SIZES: dict[str, int] = {"a2d-qwen2": 32, "a2d-qwen3": 32, "sdar": 4, "fast_dllm_qwen": 32, "efficient_dlm": 32}
"""Tokens per block the families were published with, where the configuration does not say."""


def _block_size(raw: dict[str, Any], family: Family) -> int | None:
    return raw.get("bd_size") or raw.get("block_size") or BLOCK_SIZES[family] if family in BLOCK_SIZES else None


def _attention(raw: dict[str, Any], family: Family) -> Attention:
    """A2D models come in both kinds with one configuration: full attention unless it names a block size."""
    if family in CAUSAL_FAMILIES:
        return "causal"
    blocks = family in ("sdar", "fast_dllm_qwen") or (family.startswith("a2d") and raw.get("block_size"))
    return "block_causal" if blocks else "full"


def _llada(raw: dict[str, Any]) -> ModelSpec:
    heads = raw["n_heads"]
    kv = raw.get("n_kv_heads") or (1 if raw.get("multi_query_attention") else heads)
    # The released config names only <|endoftext|>; <|eot_id|> ends a chat turn in the same vocabulary.
    eot = (126348,) if raw.get("eos_token_id") == 126081 else ()
    bias = bool(raw.get("include_bias"))
    return ModelSpec(
        family="llada",
        vocab_size=raw.get("embedding_size") or raw["vocab_size"],
        hidden_size=raw["d_model"],
        intermediate_size=raw.get("mlp_hidden_size") or raw["d_model"] * raw.get("mlp_ratio", 4),
        num_layers=raw["n_layers"],
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=raw["d_model"] // heads,
        qkv_bias=bias or bool(raw.get("include_qkv_bias")),
        o_bias=bias,
        mlp_bias=bias,
        norm_eps=raw.get("rms_norm_eps", 1e-5),
        rope_theta=float(raw.get("rope_theta", 10000.0)),
        rope_fp32=bool(raw.get("rope_full_precision", True)),
        max_positions=raw.get("max_sequence_length", 1024),
        tie_embeddings=bool(raw.get("weight_tying")),
        bos_id=raw.get("bos_token_id"),
        eos_ids=_eos(raw, *eot),
        pad_id=raw.get("pad_token_id"),
        mask_id=raw.get("mask_token_id"),
        dtype=raw.get("torch_dtype"),
    )
