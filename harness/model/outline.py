"""What a checkpoint's files say of ends and context, whoever can build its layers: enough for an engine that
decodes by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.model.configuration import check_values
from harness.model.ending import end_ids
from harness.model.family import ids
from harness.model.spec import FETCH, CheckpointError, ModelSpec
from harness.records.outside import read_json


def read_outline(folder: Path) -> tuple[ModelSpec, dict[str, Any]]:
    """(spec without a family, ``config.json``): ends, context and vocabulary; sizes that the file does not
    name are 0. Mixtures of experts are not refused.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"no config.json in {folder}: --model must name a checkpoint folder")
    raw = read_json(path, CheckpointError, advice=FETCH)
    check_values(raw, path)
    told: dict[str, Any] = {}
    if (generation := folder / "generation_config.json").exists():
        told = read_json(generation, CheckpointError, advice=FETCH)
        check_values(told, generation)
    ends = [*ids(raw.get("eos_token_id")), *ids(told.get("eos_token_id"))]
    further = end_ids(folder, raw.get("pad_token_id"), (raw.get("mask_token_id"), raw.get("bos_token_id")))
    heads = raw.get("num_attention_heads") or 0
    spec = ModelSpec(
        family="engine",
        vocab_size=raw.get("vocab_size") or 0,
        hidden_size=raw.get("hidden_size") or 0,
        intermediate_size=raw.get("intermediate_size") or 0,
        num_layers=raw.get("num_hidden_layers") or 0,
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or 0,
        qkv_bias=False,
        max_positions=raw.get("max_position_embeddings") or 2048,
        eos_ids=tuple(dict.fromkeys([*ends, *further])),
        name=folder.name,
    )
    return spec, raw
