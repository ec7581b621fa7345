"""A random checkpoint in Dream-7B's published layout, at any number of layers: written shard by shard, loaded
in bf16, decoded.

python -m tests.tools.full_size FOLDER [--layers 28] writes about 15 GB, prints load time, peak memory and
seconds per forward as one JSON line, and removes what it wrote. tests/model/test_full_size.py does the same
with two layers.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.engine.loader import Loaded, load
from harness.measuring.clock import decode

CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{k}|>" for k in range(3, 22)),
    "<|beginoftext|>",
    "<|mask|>",
)
SHARD_BYTES = 5_000_000_000
METHODS = {
    "d2f": {"block_size": 4},
    "fast_dllm": {"cache": "dual", "block_length": 4, "alg": "confidence_threshold", "threshold": 0.9},
}
CANVAS = 8


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the checkpoint's tensors, in its order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kept = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        front = f"model.layers.{layer}."
        yield front + "input_layernorm.weight", (hidden,)
        yield front + "mlp.down_proj.weight", (hidden, inner)
        yield front + "mlp.gate_proj.weight", (inner, hidden)
        yield front + "mlp.up_proj.weight", (inner, hidden)
        yield front + "post_attention_layernorm.weight", (hidden,)
        for letter, size in (("k", kept), ("q", hidden), ("v", kept)):
            yield front + f"self_attn.{letter}_proj.bias", (size,)
            yield front + f"self_attn.{letter}_proj.weight", (size, hidden)
        yield front + "self_attn.o_proj.weight", (hidden, hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def shards(config: dict[str, Any], limit: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors divided as the hub's writer divides them: a shard ends before it would pass ``limit``
    bytes.
    """
    parts: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in shapes(config):
        more = 2 * math.prod(shape)
        if parts[-1] and size + more > limit:
            parts.append([])
            size = 0
        parts[-1].append((name, shape))
        size += more
    return parts


def random_tensor(name: str, shape: tuple[int, ...], noise: torch.Tensor) -> torch.Tensor:
    """Ones for norms, else values of standard deviation 0.02 from a stretch of ``noise`` that begins
    elsewhere for every name.
    """
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    count, start = math.prod(shape), sum(name.encode()) * 7919 % 1000
    stretch = noise[start:]
    return stretch.repeat(-(-count // len(stretch)))[:count].view(shape)


def write(folder: Path, layers: int, limit: int = SHARD_BYTES) -> int:
    """Write the checkpoint with its index, configuration and tokenizer files; returns its bytes. Holds one
    shard at a time.
    """
    folder.mkdir(parents=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    noise = (torch.randn(16_777_259, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    parts, where, total = shards(config, limit), {}, 0
    for index, part in enumerate(parts, 1):
        file = f"model-{index:05d}-of-{len(parts):05d}.safetensors"
        held = {name: random_tensor(name, shape, noise) for name, shape in part}
        save_file(held, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(held, file)
        total += sum(tensor.nbytes for tensor in held.values())
        del held
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 151643, "eos_token_id": 151643, "pad_token_id": 151643})
    )
    _tokenizer(folder)
    return total


def _tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json as Qwen2's: bytes, filled up with unused tokens to the
    published size.
    """
    letters = sorted(ByteLevel.alphabet())
    vocab = {letter: k for k, letter in enumerate(letters)} | {
        f"unused{k}": k for k in range(len(letters), 151643)
    }
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(151643 + k): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for k, text in enumerate(SPECIAL)
    }
    told = {
        "added_tokens_decoder": added,
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    told |= {"mask_token": "<|mask|>", "tokenizer_class": "DreamTokenizer", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def measure(folder: Path, prompt: str = "def add(a, b):") -> dict[str, Any]:
    """Load in bf16 and decode ``CANVAS`` tokens with each method: load time, peak memory (GB), NFE and
    seconds per forward.
    """
    peak = Peak()
    started = time.perf_counter()
    loaded = load(str(folder), {"mask_token"}, dtype="bfloat16", device="cpu")
    found: dict[str, Any] = {"load_s": time.perf_counter() - started, "peak_after_load_gb": peak.gb}
    ids = loaded.tokenizer.encode(prompt, add_special_tokens=False)
    for name, settings in METHODS.items():
        found[name] = _timed(loaded, name, settings, ids)
    return {**found, "prompt_tokens": len(ids), "canvas": CANVAS, "peak_gb": peak.gb}


def _timed(loaded: Loaded, name: str, settings: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    decoder = load_method(name).decoder
    config = build_config(name, decoder.Config, settings)
    started = time.perf_counter()
    row = decode(loaded.backbone, decoder, config, [ids], CANVAS, stop_rule="reference")[0]
    wall = time.perf_counter() - started
    return {
        "nfe": row.nfe,
        "positions": row.positions,
        "s_per_forward": wall / row.nfe,
        "audit_passed": row.audit_passed,
    }


class Peak:
    """Most memory that this process held at once since it started (GB, pages of mapped files included),
    looked at ten times a second.
    """

    def __init__(self) -> None:
        self.gb, self._process = 0.0, psutil.Process()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.gb = max(self.gb, self._process.memory_info().rss / 1e9)
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    given = parser.parse_args()
    started = time.perf_counter()
    try:
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as writer:  # its memory ends with it
            size = writer.submit(write, given.folder, given.layers).result()
        written = time.perf_counter() - started
        print(json.dumps({"bytes": size, "write_s": written, **measure(given.folder)}), flush=True)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
