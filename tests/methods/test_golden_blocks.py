"""The block-diffusion goldens hold together, and their logits are those of transformers' own classes."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: list[dict[str, Any]] = [json.loads(line) for line in (GOLDEN / "block_diffusion.jsonl").open()]
LOGITS: list[dict[str, Any]] = json.loads((GOLDEN / "logits_families.json").read_text())
SHAPES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
MORE = (
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)


COUNTS = {"sdar": 74, "bd3lm": 76, "fast_dllm_v2": 100, "llada2": 29, "llada2_edit": 56}
COUNTS |= {"low_confidence": 24, "joint_threshold": 43}


@cache
def reference(name: str) -> PreTrainedModel:
    """transformers' Qwen2 or Qwen3 class with a tiny checkpoint's weights under their plain names."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    weights = load_file(GOLDEN / name / "model.safetensors")
    renamed = {
        key.replace("encoder.", "model.", 1).replace("diffusion_head", "lm_head"): w
        for key, w in weights.items()
    }
    shape = {key: config[key] for key in (*SHAPES, *MORE)}
    if "model.layers.0.self_attn.q_norm.weight" in renamed:
        model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=config["head_dim"]))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    missing = model.load_state_dict(renamed, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == (["lm_head.weight"] if config["tie_word_embeddings"] else [])
    return model.eval()


def visible(kind: str, length: int, block_size: int | None) -> torch.Tensor:
    """Additive attention mask [1, 1, length, length] of a golden's ``attention``."""
    block = {"full": length, "causal": 1}.get(kind, block_size) or 1
    places = torch.arange(length) // block
    seen = places[None] <= places[:, None]
    return torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]


@pytest.mark.parametrize(
    "case", LOGITS, ids=lambda c: f"{c['model']}-{c['attention']}-{c['block_size']}-{len(c['ids'])}"
)
def test_logits_are_those_of_the_plain_body(case: dict[str, Any]) -> None:
    ids = torch.tensor([case["ids"]])
    mask = visible(case["attention"], ids.shape[1], case["block_size"])
    with torch.no_grad():
        logits = reference(case["model"])(input_ids=ids, attention_mask=mask).logits[0]
    rows = logits[case["positions"]]
    torch.testing.assert_close(rows[:, :16], torch.tensor(case["logits"]), atol=1e-4, rtol=1e-4)
    assert rows.argmax(-1).tolist() == case["argmax"]


def test_every_preset_has_its_cases() -> None:
    counts = Counter(case["settings"]["preset"] for case in CASES)
    assert counts == COUNTS
    assert len({case["case"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("preset", COUNTS)
def test_forwards_and_steps_describe_the_output(preset: str) -> None:
    for case in (case for case in CASES if case["settings"]["preset"] == preset):
        output, steps = case["output"], case["steps"]
        assert len(steps) == len(output), case["case"]
        assert case["nfe"] == len(case["forwards"]), case["case"]
        assert 198 not in output, case["case"]
        written = {step for step in steps if step is not None}
        assert written <= set(range(case["nfe"])), case["case"]
        pads = [token for token, step in zip(output, steps, strict=True) if step is None]
        assert set(pads) <= {196}, case["case"]


def test_a_cached_prefix_is_what_was_stored() -> None:
    """With an exact cache every forward finds just the rows stored so far."""
    for case in CASES:
        settings = case["settings"]
        if settings["preset"] in ("bd3lm", "llada2", "llada2_edit") or settings.get("use_block_cache"):
            continue
        length = 0
        for _, cached, stored in case["forwards"]:
            assert cached == length, case["case"]
            length += stored
        assert length % settings["block_size"] == 0, case["case"]


def test_bd3lm_schedules_count_every_place() -> None:
    for case in CASES:
        settings = case["settings"]
        if settings["preset"] != "bd3lm":
            continue
        sizes = [sum(schedule) for schedule in settings["schedules"]]
        assert sum(sizes) == settings["max_new_tokens"], case["case"]
        blocks = -(-len(case["output"]) // settings["block_size"])
        passes = sum(1 + len(schedule) for schedule in settings["schedules"][:blocks])
        assert case["nfe"] == passes, case["case"]
