"""What a ``config.json`` may hold: kinds and ranges of the keys that families read, so that a wrong value is
named here and not met inside a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from harness.model.spec import FETCH, CheckpointError, ModelSpec
from harness.records.outside import brief

_LAYERS, _WORDS_MOST, _WIDTH = 1000, 1 << 24, 1 << 22
_LARGEST: dict[str, int] = {
    "num_hidden_layers": _LAYERS, "n_layers": _LAYERS,
    "num_attention_heads": 1 << 16, "n_heads": 1 << 16, "num_key_value_heads": 1 << 16, "n_kv_heads": 1 << 16,
    "vocab_size": _WORDS_MOST, "embedding_size": _WORDS_MOST,
    "hidden_size": _WIDTH, "d_model": _WIDTH, "intermediate_size": _WIDTH, "mlp_hidden_size": _WIDTH,
    "head_dim": 1 << 16, "mlp_ratio": 1 << 16,
    "block_size": 1 << 20, "bd_size": 1 << 20,
    "max_position_embeddings": 1 << 32, "max_sequence_length": 1 << 32,
}  # fmt: skip
"""Sizes with the largest taken seriously: ten times what has been published, and built in a second."""
_IDS = ("bos_token_id", "pad_token_id", "mask_token_id")
_NUMBERS = ("rms_norm_eps", "rope_theta")
_FLAGS = (
    "attention_bias", "mlp_bias", "tie_word_embeddings", "include_bias", "include_qkv_bias", "weight_tying",
    "multi_query_attention", "rope_full_precision",
)  # fmt: skip
_TABLES = ("rope_scaling", "rope_parameters")
_WORDS = ("torch_dtype", "dtype")


def check_values(raw: Mapping[str, Any], where: Path | str = "config.json") -> None:
    """CheckpointError for the first known key whose value no model can have; null is as good as no key."""
    for key, told in _wanted(raw):
        raise CheckpointError(f"{where}: {key} is {brief(raw[key])}, and {told} is wanted: {FETCH}")


def _wanted(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in raw.items():
        if value is None:
            continue
        if key in _LARGEST and not (_whole(value) and 1 <= value <= _LARGEST[key]):
            yield key, f"a whole number from 1 to {_LARGEST[key]:,}"
        elif key in _IDS and not _is_id(value):
            yield key, "a token's id"
        elif key == "eos_token_id" and not all(map(_is_id, value if isinstance(value, list) else [value])):
            yield key, "a token's id or a list of them"
        elif key == "noise_levels" and not (_whole(value) and 0 <= value <= _WORDS_MOST):
            yield key, "a whole number from 0"
        elif key in _NUMBERS and not _number(value):
            yield key, "a number above 0"
        elif key in _FLAGS and not isinstance(value, bool):
            yield key, "true or false"
        elif key in _TABLES and not isinstance(value, dict):
            yield key, "an object"
        elif key in _WORDS and not isinstance(value, str):
            yield key, "a name"
        elif key == "architectures" and not (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
        ):
            yield key, "a list of names"
        elif key == "model_type" and not isinstance(value, str):
            yield key, "a name"


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    """Some configurations say -1 for none."""
    return _whole(value) and -1 <= value < _WORDS_MOST


def _number(value: Any) -> bool:
    return (_whole(value) and 0 < value < 1 << 63) or (
        isinstance(value, float) and math.isfinite(value) and value > 0
    )


def check_shape(spec: ModelSpec, where: Path | str = "config.json") -> None:
    """CheckpointError for sizes that do not go together, or a mask outside of the vocabulary."""
    heads, kv, mask = spec.num_heads, spec.num_kv_heads, spec.mask_id
    faults = {
        f"{heads} heads do not share {kv} heads of keys and values evenly": heads % kv,
        f"a head has {spec.head_dim} dimensions, and RoPE needs an even number": spec.head_dim % 2
        or not spec.head_dim,
        f"{spec.noise_levels} noise levels leave no word of {spec.vocab_size}": spec.noise_levels
        >= spec.vocab_size,
        f"the mask's id {mask} lies outside of the vocabulary of {spec.vocab_size}": mask is not None
        and not 0 <= mask < spec.vocab_size,
    }
    for told, wrong in faults.items():
        if wrong:
            raise CheckpointError(f"{where}: {told}: {FETCH}")
