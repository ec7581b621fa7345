"""Small builders for tests: golden cases, backbones on tiny checkpoints, canvases."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.model.adapter import Adapter
from harness.model.load import load_transformer
from harness.records.schema import StopRule
from tests.conftest import GOLDEN

CPU = torch.device("cpu")


@cache
def backbone(
    model: str, adapter: str | None = None, merge: bool = True, dtype: torch.dtype = torch.float32
) -> Backbone:
    """A tiny golden checkpoint; float64 where a test compares two ways to compute one thing, which differ in
    float32 by the processor.
    """
    transformer = load_transformer(GOLDEN / model, dtype, CPU)
    if adapter is not None:
        weights = Adapter(GOLDEN / adapter)
        weights.merge(transformer) if merge else weights.attach(transformer)
    return Backbone(transformer, CPU, dtype)


def canvas(
    model: Backbone, prompts: list[list[int]], new_tokens: int, stop_rule: StopRule = "reference"
) -> Canvas:
    spec = model.spec
    return Canvas(
        prompts,
        new_tokens,
        vocab_size=spec.vocab_size,
        mask_id=spec.mask_id,
        eos_ids=spec.eos_ids,
        device=CPU,
        stop_rule=stop_rule,
    )


class Process(Protocol):
    def poll(self) -> int | None: ...


def wait_until(happened: Callable[[], bool], process: Process, seconds: float = 900) -> None:
    """Until ``happened`` or the process ends. The limit only keeps a hung test from waiting for ever: a busy
    machine may take minutes.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline, f"nothing happened within {seconds:.0f} s"
        time.sleep(0.005)


@cache
def golden_cases() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in (GOLDEN / "decoding.jsonl").read_text().splitlines())
