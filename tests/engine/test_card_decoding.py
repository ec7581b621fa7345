"""Decoders on a stand-in for a GPU: the ids of the CPU, and no tensor of the host where a GPU refuses it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from harness.decoding.backbone import Backbone
from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from harness.measuring.clock import decode
from harness.model.load import load_transformer
from tests.card import CARD, Card
from tests.conftest import GOLDEN

DECODERS: dict[str, dict[str, Any]] = {
    "vanilla": {"tokens_per_step": 4},
    "fast_dllm": {"cache": "dual", "block_length": 4},
    "d2f": {"block_size": 4},
    "lopa": {"block_size": 4},
    "wino": {"block_length": 4},
}
PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]


def answers(method: str, device: torch.device) -> list[list[int]]:
    decoder = load_method(method).decoder
    with Card() if device == CARD else nullcontext():
        model = Backbone(
            load_transformer(GOLDEN / "dream_tiny", torch.float32, device), device, torch.float32
        )
        rows = decode(model, decoder, build_config(method, decoder.Config, DECODERS[method]), PROMPTS, 8)
    assert all(row.audit_passed for row in rows)
    return [row.output for row in rows]


@pytest.mark.parametrize("method", DECODERS)
def test_decoders_run_on_the_card_with_the_same_ids(method: str) -> None:
    assert answers(method, CARD) == answers(method, torch.device("cpu"))
