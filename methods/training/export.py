"""Shipped folders: real checkpoint layouts, readable by transformers, PEFT and this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.data.corpus import BOS, EOS, MASK, save_tokenizer
from suites.generators.frozen import full_name

CONTEXT = 2048


def nano_spec(vocab: int) -> ModelSpec:
    """Shape of nano and of its autoregressive parent: about 4.9 M parameters."""
    return ModelSpec(
        family="qwen2",
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=704,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        qkv_bias=True,
        max_positions=CONTEXT,
    )


def config_of(spec: ModelSpec, tokenizer: Tokenizer, diffusion: bool) -> dict[str, Any]:
    """config.json: the keys of Dream (``diffusion``) or of Qwen2."""
    eos = tokenizer.token_to_id(EOS)
    shared = {
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": eos,
        "pad_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": spec.max_positions,
        "max_window_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "num_key_value_heads": spec.num_kv_heads,
        "rms_norm_eps": spec.norm_eps,
        "rope_scaling": None,
        "rope_theta": spec.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": spec.vocab_size,
    }
    if not diffusion:
        return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_cache": True, **shared}
    # No auto_map: the folder holds no code, and transformers would ask whether to run it.
    own = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "mask_token_id": tokenizer.token_to_id(MASK),
    }
    return {**own, "use_cache": False, **shared}


def save_model(folder: Path, model: Transformer, tokenizer: Tokenizer, diffusion: bool) -> None:
    """Write config, generation config, bfloat16 weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(model.spec, tokenizer, diffusion)
    generation = {
        name: config[name]
        for name in ("bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id")
        if name in config
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    save_weights(folder / "model.safetensors", model.state_dict())
    save_tokenizer(tokenizer, folder)


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write all tensors in bfloat16, readable by everyone."""
    save_file(
        {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in state.items()},
        str(path),
        metadata={"format": "pt"},
    )
    path.chmod(0o644)


def save_card(
    folder: Path, title: str, text: str, figures: Mapping[str, float], facts: Mapping[str, Any]
) -> None:
    """README.md of a folder: what it is, how it was made, and its validation figures."""
    lines = [f"# {title}", "", text, "", "| fact | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    if figures:
        lines += _figures(figures)
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def _figures(figures: Mapping[str, float]) -> list[str]:
    suites = list(dict.fromkeys(key.split("/")[0] for key in figures))
    lines = [
        "",
        "Greedy pass@1 on the validation sets (never used for training), forwards per item in brackets:",
        "",
    ]
    lines += ["| decoding | " + " | ".join(map(full_name, suites)) + " |", "|---" * (1 + len(suites)) + "|"]
    for mode in dict.fromkeys(key.split("/")[1] for key in figures if key.count("/") == 1):
        cells = [
            f"{figures[f'{suite}/{mode}']:.3f} ({figures[f'{suite}/{mode}/nfe']:.1f})" for suite in suites
        ]
        lines.append(f"| {mode} | " + " | ".join(cells) + " |")
    return lines


def data_hash(folder: Path) -> str:
    """sha256 (16 digits) over the frozen sets' SHA256SUMS."""
    return hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()[:16]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
