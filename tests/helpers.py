"""Small builders for tests: golden cases, backbones on tiny checkpoints, canvases."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.model.adapter import Adapter
from harness.model.load import load_transformer
from harness.records.schema import StopRule
from tests.conftest import GOLDEN

CPU = torch.device("cpu")


@cache
def backbone(model: str, adapter: str | None = None, merge: bool = True) -> Backbone:
    """A tiny golden checkpoint in float32."""
    transformer = load_transformer(GOLDEN / model, torch.float32, CPU)
    if adapter is not None:
        weights = Adapter(GOLDEN / adapter)
        weights.merge(transformer) if merge else weights.attach(transformer)
    return Backbone(transformer, CPU, torch.float32)


def canvas(model: Backbone, prompts: list[list[int]], new_tokens: int, stop_rule: StopRule = "reference") -> Canvas:
    spec = model.spec
    return Canvas(
        prompts, new_tokens, vocab_size=spec.vocab_size, mask_id=spec.mask_id, eos_ids=spec.eos_ids, device=CPU, stop_rule=stop_rule
    )


@cache
def golden_cases() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in (GOLDEN / "decoding.jsonl").read_text().splitlines())
