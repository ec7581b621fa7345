"""Shapes by name: the released models' sizes, cut to layers, filled with random weights."""

from __future__ import annotations

import pytest
import torch

from harness.decoding.layer import products_of
from harness.model.load import unfilled
from harness.model.shapes import random_transformer, shape_spec, shapes, weight_count
from harness.model.spec import CheckpointError
from reports.projection import MODELS
from tests.tools.full_size import CONFIG

CPU = torch.device("cpu")


@pytest.mark.parametrize(("shape", "model"), [("dream7b", "dream-7b"), ("llada8b", "llada-8b")])
def test_sizes_are_those_that_projections_use(shape: str, model: str) -> None:
    spec, cost = shape_spec(shape), MODELS[model]
    body = weight_count(spec) - 2 * spec.vocab_size * spec.hidden_size
    assert 2 * body == pytest.approx(cost.position_flops, rel=1e-4)
    assert 2 * (body + spec.vocab_size * spec.hidden_size) == pytest.approx(cost.weight_bytes, rel=1e-4)
    assert 4 * spec.num_layers * spec.num_kv_heads * spec.head_dim == cost.kv_bytes


def test_dream_is_the_published_configuration() -> None:
    config = shapes()["dream7b"].config or {}
    assert {name: value for name, value in config.items() if value != CONFIG.get(name)} == {}


def test_a_tied_head_counts_once() -> None:
    spec = shape_spec("qwen3-0.6b")
    assert 0.59e9 < weight_count(spec) < 0.6e9
    assert products_of(unfilled(spec).model.layers) < weight_count(spec)


def test_layers_cut_and_nothing_else() -> None:
    assert shape_spec("llada8b", 2).num_layers == 2
    whole, cut = (weight_count(shape_spec("nano", layers)) for layers in (6, 5))
    assert whole - cut == (weight_count(shape_spec("nano", 2)) - weight_count(shape_spec("nano", 1)))


def test_faults_name_the_flag() -> None:
    with pytest.raises(
        CheckpointError, match=r"--shape 'gpt' is unknown; use dream7b, llada8b, qwen3-0\.6b, nano"
    ):
        shape_spec("gpt")
    with pytest.raises(CheckpointError, match="--layers 7: nano has 6"):
        shape_spec("nano", 7)


def test_random_weights_fill_everything_and_give_finite_logits() -> None:
    model = random_transformer(shape_spec("nano", 2), torch.float32, CPU)
    assert {part.device.type for part in model.parameters()} == {"cpu"}
    logits = model(torch.arange(12).unsqueeze(0))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert model.model.embed_tokens.weight.std() == pytest.approx(0.02, rel=0.05)
