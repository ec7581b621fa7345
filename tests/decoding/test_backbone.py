"""The backbone against the references' logits, itself uncached, and transformers' Qwen2."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from harness.decoding.backbone import TooManyForwards
from harness.decoding.cache import KVCache, Valid, _faults, _faults_of_spans
from harness.decoding.forward import Forward
from harness.decoding.masks import CAUSAL, BlockCausal
from harness.model.adapter import Adapter
from harness.model.load import CheckpointError, load_transformer
from harness.model.recognise import read_spec, spec_of_config
from tests.conftest import GOLDEN
from tests.helpers import CPU, backbone, canvas

LOGITS: list[dict[str, Any]] = json.loads((GOLDEN / "logits.json").read_text())


@pytest.mark.parametrize("case", LOGITS, ids=lambda case: f"{case['model']}-{case['adapter']}")
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "unmerged"])
def test_raw_logits_equal_reference(case: dict[str, Any], merge: bool) -> None:
    model = backbone(case["model"], case["adapter"], merge)
    logits = model.score(torch.tensor([case["ids"]]))[0]
    for position, values in zip(case["positions"], case["logits"], strict=True):
        torch.testing.assert_close(logits[position, :16], torch.tensor(values), atol=1e-4, rtol=0)


def test_aligned_logits_hide_the_shift() -> None:
    for name, offset in (("dream_tiny", 1), ("llada_tiny", 0)):
        model = backbone(name)
        page = canvas(model, [[5, 6, 7]], 5)
        raw = model.score(page.ids)[0]
        got = model.forward(page, Forward((0, 8), [3, 5, 7]))
        torch.testing.assert_close(got, raw[torch.tensor([3, 5, 7]) - offset], atol=1e-5, rtol=1e-5)


def test_block_causal_cache_is_exact() -> None:
    model = backbone("dream_tiny", dtype=torch.float64)
    page = canvas(model, [[5, 6, 7]], 8)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, 7), [3], keep=(0, 3), mask=BlockCausal(4)), cache)
    cached = model.forward(page, Forward((3, 11), [3, 4, 8], mask=BlockCausal(4)), cache)
    whole = model.forward(page, Forward((0, 11), [3, 4, 8], mask=BlockCausal(4), cached=False), cache)
    torch.testing.assert_close(cached, whole, atol=1e-9, rtol=1e-9)
    full = model.forward(page, Forward((0, 11), [3, 4, 8], cached=False), cache)
    assert (full - whole).abs().max() > 1e-3


def test_causal_cache_is_exact() -> None:
    model = backbone("dream_wide_tiny", dtype=torch.float64)
    page = canvas(model, [[1, 2, 3, 4], [7, 8]], 4)
    cache = model.new_cache(page)
    first = model.forward_rows(
        page,
        {0: Forward((0, 4), [4], (0, 4), mask=CAUSAL), 1: Forward((0, 2), [2], (0, 2), mask=CAUSAL)},
        cache,
    )
    for row, length in ((0, 4), (1, 2)):
        page.rows[row].commit([length], first[row].argmax(-1))
    second = model.forward_rows(
        page,
        {0: Forward((4, 5), [5], (4, 5), mask=CAUSAL), 1: Forward((2, 3), [3], (2, 3), mask=CAUSAL)},
        cache,
    )
    for row, length in ((0, 5), (1, 3)):
        raw = model.score(page.ids[row : row + 1, :length], causal=True)[0]
        torch.testing.assert_close(second[row][0], raw[-1], atol=1e-9, rtol=1e-9)


def test_ragged_rows_equal_single_rows() -> None:
    model = backbone("dream_tiny", dtype=torch.float64)
    page = canvas(model, [[5, 6, 7], [9] * 12, [4]], 6)
    requests = {0: Forward((0, 9), [4, 8]), 1: Forward((0, 18), [13]), 2: Forward((0, 7), [2])}
    together = model.forward_rows(page, requests)
    for row, request in requests.items():
        alone = model.forward(page, request, row=row)
        torch.testing.assert_close(together[row], alone, atol=1e-9, rtol=1e-9)


def test_meter_counts_queries_and_keys() -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [[5, 6, 7]], 8)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, 11), [3], keep=(0, 11)), cache)
    model.forward(page, Forward((3, 7), [4], keep=(3, 7)), cache)
    meter = page.meter.rows[0]
    assert meter.forwards == [(11, 0, 11), (4, 11, 4)]
    assert (meter.nfe, meter.positions, meter.kv_read) == (2, 15, 22)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Forward((0, 12), [3]), "outside row"),
        (Forward((4, 8), [5]), "position 3 is neither fed nor stored"),
        (Forward((3, 8), [9]), "no logits for position 9"),
        (Forward((0, 8), [3]), "overwrites the stored position 0"),
        (Forward((3, 8), [4], keep=(5, 9)), "not fed"),
    ],
)
def test_misuse_is_refused(request_: Forward, text: str) -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [[5, 6, 7]], 8)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, 3), [3], keep=(0, 3)), cache)
    with pytest.raises(ValueError, match=text):
        model.forward(page, request_, cache)


def test_endless_loop_is_cut() -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [[5]], 1)
    for _ in range(40):
        model.forward(page, Forward((0, 2), [1]))
    with pytest.raises(TooManyForwards):
        model.forward(page, Forward((0, 2), [1]))


def test_store_keeps_positions_anywhere() -> None:
    spec = read_spec(GOLDEN / "dream_tiny")
    cache = KVCache(spec, 1, 8, torch.float32, CPU)
    cache.mark(0, [0, 1, 5, 7], {1: torch.zeros(64), 5: torch.zeros(64)})
    assert cache.length(0) == 4
    assert [position for position in range(8) if position in cache.valid[0]] == [0, 1, 5, 7]
    cache.mark(0, range(2, 5), {})
    assert (cache.valid[0].prefix, cache.valid[0].others) == (6, {7})
    assert cache.edge(0, 5) is not None
    cache.clear(0)
    assert cache.length(0) == 0
    assert cache.edge(0, 5) is None


@pytest.mark.parametrize("causal", [True, False])
def test_equals_transformers_qwen2(causal: bool) -> None:
    """The same weights in transformers' own Qwen2, run causally and with an all-ones mask."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = GOLDEN / "dream_tiny"
    raw = json.loads((folder / "config.json").read_text())
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            **{key: raw[key] for key in keys},
            rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        )
    ).eval()
    ours = load_transformer(folder, torch.float32, CPU)
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(2, 21).unsqueeze(0)
    mask = torch.ones(19, 19, dtype=torch.bool).tril() if causal else torch.ones(19, 19, dtype=torch.bool)
    with torch.inference_mode():
        want = theirs(ids, attention_mask=mask[None, None]).logits
        got = ours(ids, mask)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_llama_rope_scaling_equals_transformers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.model.transformer import Transformer

    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={**scaling, "rope_theta": 5e5},
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config).eval()
    ours = Transformer(spec_of_config({**config.to_dict(), "model_type": "llama"})).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.arange(40).unsqueeze(0)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(ids, torch.ones(40, 40, dtype=torch.bool).tril()), theirs(ids).logits, atol=1e-4, rtol=1e-4
        )


def test_adapter_of_another_base_is_refused() -> None:
    model = load_transformer(GOLDEN / "dream_wide_tiny", torch.float32, CPU)
    with pytest.raises(CheckpointError, match=r"trained for 'dream_tiny'.*--adapter"):
        Adapter(GOLDEN / "dream_lora_tiny").merge(model)


def test_missing_weights_are_named(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text((GOLDEN / "dream_tiny" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"model\.safetensors not found"):
        load_transformer(tmp_path, torch.float32, CPU)


def test_stretches_are_checked_as_positions_are() -> None:
    spans = [range(start, stop) for start in range(5) for stop in range(start, 6)]
    for prefix in range(6):
        for feed in filter(len, spans):
            for keep in spans:
                wanted = _faults(Valid(prefix), feed, keep)
                found = _faults_of_spans(prefix, feed, keep)
                # What is kept without being fed ends the pass; the other two are not asked then.
                assert found[0] == wanted[0]
                assert wanted[0] is not None or found == wanted, (prefix, feed, keep)
