"""The full-size proof at two layers and small width: the published layout in shards, loaded in bf16, decoded
and audited.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.model.recognise import spec_of_config
from tests.tools import full_size

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_the_layout_at_two_layers_loads_and_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "CONFIG", {**full_size.CONFIG, **SMALL})
    folder = tmp_path / "dream"
    size = full_size.write(folder, layers=2, limit=12_000_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    # An embedding is larger than the limit, so it fills a shard of its own, as does the head.
    assert files == [f"model-{k:05d}-of-00003.safetensors" for k in (1, 2, 3)]
    assert (
        index["metadata"]["total_size"]
        == size
        == sum(
            2 * torch.Size(shape).numel()
            for _, shape in full_size.shapes({**full_size.CONFIG, "num_hidden_layers": 2})
        )
    )
    found = full_size.measure(folder)
    for name in full_size.METHODS:
        assert found[name]["audit_passed"], name
        assert found[name]["nfe"] >= full_size.CANVAS / 4
    assert found["prompt_tokens"] == len("def add(a, b):")
    assert found["peak_gb"] >= found["peak_after_load_gb"] > 0


def test_the_shapes_are_those_of_seven_billion() -> None:
    """7,615,616,512 parameters, those of Qwen2.5-7B, which Dream started from."""
    parts = full_size.shards(full_size.CONFIG, full_size.SHARD_BYTES)
    assert sum(2 * torch.Size(shape).numel() for part in parts for _, shape in part) == 2 * 7_615_616_512
    assert len(parts) == 4
    spec = spec_of_config(full_size.CONFIG)
    assert (spec.mask_id, spec.head_dim, spec.shift) == (151666, 128, True)
