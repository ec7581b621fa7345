"""Weights of fewer bits: named in the run, a fingerprint of their own, fewer bytes, the harness as ever."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from harness.engine.generator import Request
from harness.engine.held import weights_bytes
from harness.engine.loader import Loaded, load
from harness.engine.opening import Weights, open_engine
from harness.measuring.fingerprint import fingerprint
from harness.measuring.roofline import model_cost
from harness.model.quantize import quantize, stored
from harness.model.spec import CheckpointError
from tests.conftest import GOLDEN

PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4], [11], [3, 3, 3, 3])


def tiny(dtype: str) -> Loaded:
    return load(str(GOLDEN / "dream_eos_tiny"), dtype=dtype)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_blocks_are_quantised_and_everything_says_so(scheme: str) -> None:
    plain, fewer = load("nano", dtype="float32"), load("nano", dtype=scheme)
    assert (plain.held.precision, fewer.held.precision) == ("float32", scheme)
    model = fewer.backbone._model
    linear = dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"]
    assert {part.dtype for part in stored(linear)} >= {torch.int8}
    assert [part.dtype for part in stored(model.lm_head.weight)] == [torch.float32]
    assert fingerprint(fewer.backbone) != fingerprint(plain.backbone)
    assert weights_bytes(fewer.backbone) < weights_bytes(plain.backbone)
    costs = [model_cost(one.backbone) for one in (plain, fewer)]
    assert costs[1].weight_bytes < costs[0].weight_bytes
    assert costs[1].position_flops == costs[0].position_flops


def test_int8_stays_near_the_plain_logits() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        exact, rounded = (tiny(dtype).backbone._model(ids) for dtype in ("float32", "int8"))
    apart = (exact - rounded).abs().max() / exact.abs().max()
    assert 0 < float(apart) < 0.05


@pytest.mark.parametrize("method", ["vanilla", "fast_dllm:cache=dual,block_length=8", "d2f:block_size=8"])
def test_a_batch_answers_like_single_rows(method: str) -> None:
    generator = open_engine(method, Weights(str(GOLDEN / "dream_eos_tiny"), "none", dtype="int8")).generator
    requests = [Request(list(prompt), 16) for prompt in PROMPTS]
    alone, together = (
        [
            item.decoded and (item.decoded.output, item.decoded.nfe)
            for batch in generator.run(requests, size)
            for item in batch
        ]
        for size in (1, 4)
    )
    assert None not in alone
    assert together == alone


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(GOLDEN / "llada_eos_tiny")).backbone._model
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        CheckpointError, match=r"--dtype int8 needs torchao: pip install 'dllm-bench\[quantize\]'"
    ):
        quantize(model, "int8")


def test_int4_names_a_width_that_it_cannot_group() -> None:
    with pytest.raises(CheckpointError, match="multiples of 32, this model has 48: use --dtype int8"):
        tiny("int4")


def test_an_unknown_precision_names_those_there_are() -> None:
    with pytest.raises(CheckpointError, match="use auto, float32, bfloat16, float16, int8, int4"):
        tiny("int7")
