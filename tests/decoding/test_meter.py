"""Where the time of a decode call is booked."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from harness.decoding.meter import Meter
from harness.decoding.registry import load_method
from harness.decoding.row import Row
from harness.measuring.clock import decode
from harness.model import ModelSpec
from methods.base import Forward, Program, RowDecoder, SamplingConfig, propose
from methods.semi_ar import Config as SemiArConfig
from tests.helpers import backbone

PAUSE, STEPS = 0.02, 4


class Slow(RowDecoder):
    name = "slow"

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        while at := row.masked()[:2]:
            logits = yield Forward(feed=(0, row.length), at=at)
            time.sleep(PAUSE)
            best = propose(logits, row, spec, config)
            row.commit(at, best.ids, best.probability)


def booked(meter: Meter, unit: float) -> Meter:
    """10 units in the decoder: 6 in forward passes (of these 5 in the model), 1 for writing."""
    meter.spent("decode", 0 * unit, 10 * unit)
    meter.spent("forward", 1 * unit, 4 * unit)
    meter.spent("forward", 5 * unit, 8 * unit)
    meter.spent("model", 1 * unit, 4 * unit)
    meter.spent("model", 6 * unit, 8 * unit)
    meter.spent("write", 8 * unit, 9 * unit)
    return meter


def test_parts_by_hand() -> None:
    meter = booked(Meter(1), 1.0)
    assert (meter.forward_s, meter.select_s) == (5.0, 3.0)
    assert Meter(1).select_s == 0.0


@dataclass
class Event:
    """Stands in for a CUDA event, whose times are in milliseconds."""

    at: float = 0.0

    def __rmul__(self, factor: float) -> Event:
        return Event(factor * 1000)

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


def test_a_gpu_is_timed_by_the_events_of_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = booked(Meter(1, "cuda:0"), Event())  # pyright: ignore[reportArgumentType]
    assert (meter.forward_s, meter.select_s) == (5.0, 3.0)
    recorded = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(
        torch.cuda,
        "Event",
        lambda enable_timing: type("New", (), {"record": lambda _, stream: recorded.append(stream)})(),
    )
    meter.now()
    assert recorded == ["stream of cuda:0"]


@pytest.mark.parametrize("rows", [1, 2])
def test_a_methods_own_time_is_its_own(rows: int) -> None:
    model = backbone("dream_tiny")
    slow: Any = Slow()
    decoded = decode(model, slow, SamplingConfig(), [[5, 6, 7]] * rows, 2 * STEPS, stop_rule="reference")
    select_s, forward_s = sum(row.select_s for row in decoded), sum(row.forward_s for row in decoded)
    assert select_s >= rows * STEPS * PAUSE
    assert forward_s > 0
    assert forward_s + select_s < sum(row.time_s for row in decoded), "the rest is the harness' own"


def test_partial_layers_are_metered_as_the_work_they_do() -> None:
    """dLLM-Cache: positions are the mean over layers, computed adds the values that only tell which rows to
    renew.
    """
    model = backbone("llada_tiny")
    rows = decode(
        model,
        load_method("semi_ar").decoder,
        SemiArConfig(cache="dllm_cache", block_length=8, kp=8, kr=4),
        [[5, 6, 7]],
        8,
        stop_rule="reference",
    )
    queries, forwards = rows[0].queries, rows[0].forwards
    assert forwards[1][0] < 11
    mean = sum(sum(stop - start for layer in step for start, stop in layer) / len(step) for step in queries)
    assert rows[0].positions == math.ceil(mean)
    assert sum(query for query, _, _ in forwards) < rows[0].positions < rows[0].computed < 11 * rows[0].nfe
    plain = decode(
        model,
        load_method("semi_ar").decoder,
        SemiArConfig(block_length=8),
        [[5, 6, 7]],
        8,
        stop_rule="reference",
    )[0]
    assert plain.positions == plain.computed == 11 * plain.nfe
