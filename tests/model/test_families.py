"""Families of models: recognised by their configuration, logits equal to the published classes, mixtures of
experts refused by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.decoding.registry import load_method
from harness.decoding.settings import SettingError, build_config
from harness.engine.loader import load
from harness.measuring.clock import decode
from harness.model.load import load_transformer
from harness.model.recognise import read_spec
from harness.model.spec import CheckpointError
from tests.conftest import GOLDEN
from tests.helpers import CPU, backbone

LOGITS: list[dict[str, Any]] = json.loads((GOLDEN / "logits_families.json").read_text())

# folder: family, shift, attention, block size, alignment, query and key norms, mask id
LAYOUTS = {
    "a2d_qwen3_tiny": ("a2d-qwen3", False, "full", 32, "prompt", True, 198),
    "a2d_qwen2_tiny": ("a2d-qwen2", False, "full", 32, "prompt", False, 198),
    "sdar_tiny": ("sdar", False, "block_causal", 4, "start", True, 198),
    "fast_dllm_v2_tiny": ("fast_dllm_qwen", True, "block_causal", 32, "start", False, 198),
    "efficient_dlm_tiny": ("efficient_dlm", False, "full", 32, "start", True, 198),
    "qwen3_tiny": ("qwen3", True, "causal", None, "start", True, None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_recognised(name: str) -> None:
    spec = read_spec(GOLDEN / name)
    found = (
        spec.family,
        spec.shift,
        spec.attention,
        spec.block_size,
        spec.block_align,
        spec.qk_norm,
        spec.mask_id,
    )
    assert found == LAYOUTS[name]
    assert spec.diffusion == (name != "qwen3_tiny")
    assert spec.qkv_bias == (name in ("a2d_qwen2_tiny", "fast_dllm_v2_tiny"))


@pytest.mark.parametrize(
    "case", LOGITS, ids=lambda c: f"{c['model']}-{c['attention']}-{c['block_size']}-{len(c['ids'])}"
)
def test_logits_equal_the_published_class(case: dict[str, Any]) -> None:
    ids = torch.tensor([case["ids"]])
    length = ids.shape[1]
    size = {"full": length, "causal": 1}.get(case["attention"]) or int(case["block_size"])
    block = torch.arange(length) // size
    logits = backbone(case["model"])._model(ids, block[None] <= block[:, None])[0, case["positions"]]
    assert (logits[:, :16] - torch.tensor(case["logits"])).abs().max() < 1e-5
    assert logits.argmax(-1).tolist() == case["argmax"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lladamoe_tiny", "LLaDAMoEModelLM (model_type llada) is a mixture of 8"),
        ("llada2_tiny", "LLaDA2MoeModelLM (model_type llada2_moe)"),
    ],
)
def test_mixtures_of_experts_are_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(CheckpointError, match="mixture of 8 experts") as caught:
        read_spec(GOLDEN / name)
    assert said in str(caught.value)
    assert "--model" in str(caught.value)
    assert f"| {caught.value} |" in (GOLDEN.parents[1] / "docs" / "models.md").read_text()


def _copy(folder: Path, name: str, **config: Any) -> Path:
    shutil.copytree(GOLDEN / name, folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **config}))
    return folder


def test_a_dense_llada_never_takes_experts(tmp_path: Path) -> None:
    """model_type llada with experts is refused even where everything else looks dense."""
    folder = _copy(tmp_path / "mixed", "llada_tiny", num_experts=64)
    with pytest.raises(CheckpointError, match="mixture of 64 experts"):
        read_spec(folder)


def test_a_tied_model_may_store_its_head_or_not(tmp_path: Path) -> None:
    folder = _copy(tmp_path / "stored", "a2d_qwen2_tiny")
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()},
        folder / "model.safetensors",
    )
    ids = torch.tensor([[5, 6, 7, 198]])
    assert torch.equal(
        load_transformer(folder, torch.float32, CPU)(ids), backbone("a2d_qwen2_tiny")._model(ids)
    )


def test_mask_id_from_config_then_tokenizer_then_table(tmp_path: Path) -> None:
    told = _copy(tmp_path / "told", "sdar_tiny", mask_token_id=7)
    assert read_spec(told).mask_id == 7
    bare = _copy(tmp_path / "bare", "fast_dllm_v2_tiny", vocab_size=151936)
    (bare / "tokenizer_config.json").unlink()
    assert read_spec(bare).mask_id == 151665
    (bare / "added_tokens.json").write_text('{"|<MASK>|": 11}')
    assert read_spec(bare).mask_id == 11


def test_block_diffusion_refuses_a_model_without_blocks() -> None:
    with pytest.raises(CheckpointError, match="nano attends to everything at once and never learned blocks"):
        load("nano", {"mask_token", "blocks"})


def _decoded(name: str, method: str, settings: dict[str, Any], rows: int = 4) -> list[Any]:
    """Rows of different prompts on a tiny model whose published block size is 4 or is made so, audited."""
    loaded = backbone(name)
    lengths = [3, 8, 9, 14][:rows]
    prompts = [[7 + 11 * k % 150 for k in range(length)] for length in lengths]
    entry = load_method(method).decoder
    config = build_config(method, entry.Config, settings)
    alone = [decode(loaded, entry, config, [prompt], 32, stop_rule="reference")[0] for prompt in prompts]
    together = decode(loaded, entry, config, prompts, 32, stop_rule="reference")
    for one, other in zip(alone, together, strict=True):
        assert (one.output, one.nfe, one.positions) == (other.output, other.nfe, other.positions)
        assert one.audit_passed, [check for check in one.checks if not check.passed]
        assert 198 not in one.output
    return alone


OTHERS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "d2f": {"block_size": 32},
    "fast_dllm": {"block_length": 32, "cache": "none", "alg": "confidence_threshold"},
    "semi_ar": {"block_length": 32, "threshold": 0.5},
    "entropy_threshold": {"block_length": 32},
    "block_diffusion": {},
}


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "qwen3_tiny"])
def test_other_decoders_run_on_these_models(name: str, method: str) -> None:
    """Batch of four equal to one, all masks filled, the audit passed."""
    _decoded(name, method, OTHERS[method])


def test_d2f_on_a_block_model_takes_its_blocks() -> None:
    """With every threshold at its strictest D2F fills one block after the other, as block diffusion with one
    token per pass does.
    """
    strict = {
        "block_size": 4,
        "skip_threshold": 1.0,
        "block_add_threshold": 1.0,
        "decoded_token_threshold": 1.0,
    }
    pipelined = _decoded("sdar_tiny", "d2f", strict)
    plain = _decoded("sdar_tiny", "block_diffusion", {"threshold": 1.0})
    for one, other in zip(pipelined, plain, strict=True):
        # Both end with the block of the first end-of-text; D2F rounds the canvas down to whole blocks.
        kept = min(len(other.output), 32 // 4 * 4 - 3)
        assert len(one.output) >= kept
        assert one.output[:kept] == other.output[:kept]


def test_d2f_does_not_cut_a_models_blocks() -> None:
    with pytest.raises(SettingError, match="block_size 6 cuts this model's blocks of 4"):
        _decoded("sdar_tiny", "d2f", {"block_size": 6}, rows=1)


def test_ar_runs_on_qwen3() -> None:
    row = _decoded("qwen3_tiny", "ar", {}, rows=2)[0]
    assert row.nfe == 32
