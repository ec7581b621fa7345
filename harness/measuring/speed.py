"""How long forward passes take: one shape, random weights, windows as asked.

A call is timed as a decoder waits for it, from its request to an idle device. Replays fetch greedy candidates
to the host at every pass, as decoders do. The roof is harness.measuring.roofline's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

from harness.decoding.backbone import Backbone
from harness.decoding.candidates import Want
from harness.decoding.kernels import Implementation
from harness.decoding.masks import FULL, BlockCausal, Mask
from harness.errors import UserError
from harness.measuring import memory
from harness.measuring.clock import synchronise
from harness.measuring.roofline import Roofline
from harness.measuring.windows import Script, Window, blank, place, steps
from harness.model.shapes import random_transformer, weight_count
from harness.model.spec import ModelSpec

WARM_UP = 2

Took = tuple[float, float]
"""Seconds by the clock, and of the processor."""


class SpeedError(UserError, ValueError):
    """A table that cannot be measured, and the flag to change."""


@dataclass(frozen=True)
class Cell:
    """One forward pass: ``rows`` that each feed ``query`` positions behind ``cached`` stored ones, with
    logits at ``asked`` of them.
    """

    rows: int
    query: int
    cached: int
    asked: int

    @property
    def batch(self) -> list[Script]:
        return [[Window(self.query, self.cached, 0, self.asked)]] * self.rows


@dataclass(frozen=True)
class Visit:
    """What one visit to a cell gave: seconds of each call, processor seconds of all, kernels of attention,
    bytes at the peak.
    """

    times_s: list[float]
    processor_s: float | None
    kernels: list[str]
    peak_memory_bytes: int | None


def mask_of(block_size: int | None) -> Mask:
    """Full attention, or block-causal from the end of the prompt (D2F's)."""
    return FULL if block_size is None else BlockCausal(block_size)


def random_backbone(
    spec: ModelSpec, dtype: torch.dtype, device: torch.device, kernel: Implementation | None = None
) -> Backbone:
    """A model with random weights on a device, ready to be timed."""
    return Backbone(random_transformer(spec, dtype, device), device, dtype, kernel)


def needed_bytes(spec: ModelSpec, dtype: torch.dtype, batches: Sequence[Sequence[Script]]) -> tuple[int, int]:
    """(bytes of the weights, bytes that the largest pass takes beside them), before anything is allocated.

    Beside: the store, logits with their float32 probabilities, and the widest activations.
    """
    size = torch.empty(0, dtype=dtype).element_size()
    most = 0
    for batch in batches:
        rows = len(batch)
        length = max(window.query + window.cached for script in batch for window in script)
        fed = rows * max(window.query for script in batch for window in script)
        asked = rows * max(window.asked for script in batch for window in script)
        held = 1 << (length - 1).bit_length()
        store = 2 * size * spec.num_layers * spec.num_kv_heads * spec.head_dim * rows * held
        activations = size * fed * (6 * spec.hidden_size + 3 * spec.intermediate_size)
        most = max(most, store + asked * spec.vocab_size * (size + 8) + activations)
    return size * weight_count(spec), most


def check_memory(spec: ModelSpec, dtype: torch.dtype, device: torch.device, batches: Any) -> None:
    """SpeedError, before anything is allocated, for a table that does not fit the device's free memory."""
    weights, beside = needed_bytes(spec, dtype, batches)
    room = memory.free(device)
    if weights + beside > room:
        raise SpeedError(
            f"{spec.name} with {spec.num_layers} layers in {str(dtype).removeprefix('torch.')} takes "
            f"{_gb(weights)} of weights and {_gb(beside)} for the largest pass, {_gb(room)} are free on "
            f"{device.type}: use fewer --layers, a smaller --dtype, another --shape, or fewer --rows"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


class _Kernels(TorchFunctionMode):
    """Which kernel each call of attention is given to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            chosen = torch._fused_sdp_choice(*args, **kwargs)  # pyright: ignore[reportPrivateImportUsage]
            self.names.add(SDPBackend(chosen).name.lower().removesuffix("_attention"))
        return func(*args, **kwargs)


@contextmanager
def roomy(what: str) -> Iterator[None]:
    """A device that runs out of memory all the same is said with the flags to change."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise SpeedError(
            f"out of memory at {what}: use fewer --rows, --query, --cached or --layers, or a smaller --dtype"
        ) from None


def visit_cell(backbone: Backbone, cell: Cell, repeats: int, warm_up: int, mask: Mask) -> Visit:
    """Time one forward pass ``repeats`` times after ``warm_up`` unrecorded calls (one at least)."""

    def call() -> Took:
        # A canvas of its own: the harness ends a row that asks for too many passes.
        canvas, cache = blank(backbone, cell.batch, [max(cell.cached, 1)] * cell.rows)
        requests = place(backbone, cache, dict(enumerate(window for (window,) in cell.batch)), mask)
        return _took(backbone.device, lambda: backbone.forward_rows(canvas, requests, cache))

    with roomy(f"{cell.rows} rows of {cell.query} positions behind {cell.cached}"):
        return _visit(backbone, [call] * repeats, [call] * warm_up)


def visit_replay(
    backbone: Backbone, batches: Sequence[Sequence[Script]], prompts: Sequence[Sequence[int]], mask: Mask
) -> Visit:
    """Time all passes of each batch of answers once; the first batch is run before, unrecorded."""
    calls = [
        partial(_replay, backbone, batch, lengths, mask)
        for batch, lengths in zip(batches, prompts, strict=True)
    ]
    with roomy(f"{len(batches[0])} rows"):
        return _visit(backbone, calls, calls[:1])


def _replay(backbone: Backbone, batch: Sequence[Script], prompts: Sequence[int], mask: Mask) -> Took:
    """What a batch's passes took, each until its candidates are on the host; making requests is left out."""
    canvas, cache = blank(backbone, batch, prompts)
    spent = []
    for step in steps(batch):
        requests = {
            row: request.but(want=Want()) for row, request in place(backbone, cache, step, mask).items()
        }
        spent.append(_took(backbone.device, partial(backbone.answer_rows, canvas, requests, cache)))
    return sum(wall for wall, _ in spent), sum(processor for _, processor in spent)


def _took(device: torch.device, work: Callable[[], object]) -> Took:
    synchronise(device)
    processor, started = time.process_time(), time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started, time.process_time() - processor


def _visit(
    backbone: Backbone, calls: Sequence[Callable[[], Took]], before: Sequence[Callable[[], Took]]
) -> Visit:
    """Time ``calls`` after the unrecorded ones ``before``, the first of which is watched for its kernels."""
    device, kernels = backbone.device, _Kernels()
    if backbone.kernel.name != "sdpa":
        kernels.names.add({"flash": "flash-attn"}.get(backbone.kernel.name, backbone.kernel.name))
    memory.reset_peak(device)
    with kernels:
        before[0]()
    for call in before[1:]:
        call()
    took = [call() for call in calls]
    processor = None if device.type == "cuda" else sum(one for _, one in took)
    return Visit([wall for wall, _ in took], processor, sorted(kernels.names), memory.peak(device))


def roof_of(roofline: Roofline, batches: Sequence[Sequence[Script]]) -> float:
    """Least seconds of all passes of these batches."""
    return sum(
        roofline.seconds([(window.query, window.cached) for window in step.values()])
        for batch in batches
        for step in steps(batch)
    )
