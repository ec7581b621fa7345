"""Blocks on two devices, the host and the stand-in for a card: the ids of one device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.decoding.backbone import Backbone
from harness.decoding.registry import load_method
from harness.decoding.settings import SettingError, build_config
from harness.engine.loader import load
from harness.measuring.clock import decode
from harness.model.load import load_transformer
from harness.model.shapes import shape_spec
from harness.model.spec import CheckpointError
from harness.model.spread import Places, placed, spread
from harness.model.transformer import Transformer
from tests.card import CARD, Card
from tests.conftest import GOLDEN

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]


def two_devices() -> Backbone:
    model = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    return Backbone(spread(model, CPU, Places([CPU, CARD], CARD)), CPU, torch.float32)


def ids(backbone: Backbone, method: str, settings: dict[str, Any]) -> list[list[int]]:
    decoder = load_method(method).decoder
    rows = decode(backbone, decoder, build_config(method, decoder.Config, settings), PROMPTS, 8)
    assert all(row.audit_passed for row in rows), [row.checks for row in rows]
    return [row.output for row in rows]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("vanilla", {}),
        ("d2f", {"block_size": 4}),
        ("fast_dllm", {"cache": "dual", "block_length": 4}),
        ("lopa", {"block_size": 4}),
    ],
)
def test_two_devices_give_the_ids_of_one(method: str, settings: dict[str, Any]) -> None:
    model = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    alone = ids(Backbone(model, CPU, torch.float32), method, settings)
    with Card():
        backbone = two_devices()
        where = [block.mlp.up_proj.weight.device.type for block in backbone._model.model.layers]  # pyright: ignore
        assert where == ["cpu", "meta"]
        assert ids(backbone, method, settings) == alone


def test_a_cache_inside_the_layers_is_refused() -> None:
    with Card(), pytest.raises(SettingError, match="leave --device-map out"):
        ids(two_devices(), "semi_ar", {"cache": "dllm_cache", "block_length": 4})


def test_blocks_are_placed_in_order_by_the_room_of_the_cards() -> None:
    with torch.device("meta"):
        model = Transformer(shape_spec("dream7b", 8))
    places = placed(model, {0: 8 << 30, 1: 8 << 30})
    where = [device.index for device in places.blocks]
    assert where == sorted(where)
    assert set(where) == {0, 1}
    assert places.head.index == 1
    with pytest.raises(CheckpointError, match="the cards cannot hold"):
        placed(model, {0: 5 << 30, 1: 2 << 30})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"device_map": "auto"}, "needs --device cuda and two cards"),
        ({"device_map": "balanced"}, "is unknown; use auto"),
        ({"device_map": "auto", "dtype": "int8"}, "do not go together"),
    ],
)
def test_what_cannot_be_spread(given: dict[str, str], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        load("nano", device="cpu", lazy=True, **given)  # pyright: ignore[reportArgumentType]
