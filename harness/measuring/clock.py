"""One decode call: canvas in, counted and timed rows out. The only clock of a generation.

The clock runs from prompt ids on the device to final ids on the host, with a device synchronisation at
both ends. Loading, tokenising, detokenising, grading and logging are outside.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.decoding.decoder import Decoder
from harness.errors import UserError
from harness.measuring import memory
from harness.measuring.audit import Start, Timing, audit_rows
from harness.model.text import StopStrings
from harness.records.schema import AuditCheck, Measured, StopRule

# Bound here, so that a method that replaces time.perf_counter changes no measured time.
_clock = time.perf_counter


class ContextError(UserError, ValueError):
    """A prompt that does not fit the model's context together with the canvas."""


class Decoded(Measured):
    """One row as decoded: ids, counts and times.

    ``queries``: positions fed by each forward, as half-open spans; a list of them per layer where a cache
    policy works inside the layers. ``spans``: blocks of the output, [start, stop) in output positions; one
    unless the suite or the method divided the row. ``kernels``: implementations of attention that ran.
    """

    # Null in a stored sample where nothing was decoded; never here.
    committed: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    nfe: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    positions: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    computed: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    kv_read: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    time_s: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    latency_s: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    rows: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    forward_s: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    select_s: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    queries: list[Any]
    prompt: list[int]
    output: list[int]
    step_map: list[int]
    confidence: list[float | None]
    spans: list[tuple[int, int]]
    checks: list[AuditCheck]
    kernels: list[str]

    @property
    def audit_passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def measured(self) -> dict[str, Any]:
        """The fields that a stored sample has too."""
        return {name: getattr(self, name) for name in Measured.model_fields}


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_context(backbone: Backbone, prompt: Sequence[int], new_tokens: int) -> None:
    """ContextError if prompt and canvas exceed the model's positions, or the prompt is unusable."""
    limit, total = backbone.spec.max_positions, len(prompt) + new_tokens
    if total > limit:
        text = (
            f"prompt of {len(prompt)} tokens and canvas of {new_tokens} exceed the model's context of {limit}"
        )
        raise ContextError(f"{text}: shorten the prompt or lower max_new_tokens")
    if not prompt:
        raise ContextError("empty prompt: give at least one token (add_bos_token=true adds one)")
    if bad := [token for token in prompt if not 0 <= token < backbone.spec.vocab_size]:
        raise ContextError(f"prompt holds id {bad[0]}, outside the vocabulary of {backbone.spec.vocab_size}")


def decode(
    backbone: Backbone,
    decoder: Decoder,
    config: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    stop_rule: StopRule = "harness",
    seeds: Sequence[int] | None = None,
    blocks: Sequence[int] = (),
    stops: StopStrings | None = None,
    live: int | None = None,
) -> list[Decoded]:
    """Decode a batch of prompts (ids) and return its rows in order. ``blocks``, ``stops``, ``live``: see
    harness.decoding.canvas.

    Raises ContextError before any work; whatever the decoder raises passes through.
    """
    for prompt in prompts:
        check_context(backbone, prompt, new_tokens)
    spec, device = backbone.spec, backbone.device
    canvas = Canvas(
        prompts,
        new_tokens,
        vocab_size=spec.vocab_size,
        mask_id=spec.mask_id,
        eos_ids=spec.eos_ids,
        device=device,
        stop_rule=stop_rule,
        seeds=seeds,
        blocks=blocks,
        stops=stops,
        live=live,
    )
    before = memory.level(device) if memory.reset_peak(device) else None
    start = Start.of(backbone, canvas)
    prepare = getattr(decoder, "ready", None)
    with (
        prepare(backbone, canvas, config) if prepare is not None else nullcontext(),
        backbone.watch() as seen,
    ):
        ids, timing = _timed(backbone, decoder, config, canvas)
    checks = audit_rows(canvas, prompts, ids, seen, start.changed(backbone, canvas), timing)
    if (findings := getattr(decoder, "findings", None)) is not None:
        checks = [[*found, *findings(index)] for index, found in enumerate(checks)]
    peak = memory.peak(device)
    above = None if before is None or peak is None else max(0, peak - before)
    return [
        _row(backbone, canvas, index, timing.elapsed, (peak, above), checks[index])
        for index in range(len(prompts))
    ]


def _timed(
    backbone: Backbone, decoder: Decoder, config: Any, canvas: Canvas
) -> tuple[list[list[int]], Timing]:
    """Run the decoder between two idle moments of the device: all ids [rows][width] on the host, and the
    clock.
    """
    synchronise(backbone.device)
    started = canvas.meter.started = _clock()
    begin = canvas.meter.now()
    decoder.decode(backbone, canvas, config)
    canvas.meter.spent("decode", begin)
    ids = canvas.ids.tolist()
    synchronise(backbone.device)
    return ids, Timing(started, _clock() - started)


def _row(
    backbone: Backbone,
    canvas: Canvas,
    index: int,
    elapsed: float,
    memory_bytes: tuple[int | None, int | None],
    checks: list[AuditCheck],
) -> Decoded:
    row, meter, rows = canvas.rows[index], canvas.meter.rows[index], len(canvas.rows)
    output, steps = row.output, row.step_map
    return Decoded(
        prompt=row.prompt,
        output=output,
        step_map=steps,
        confidence=row.confidences,
        spans=[(start - row.prompt_length, stop - row.prompt_length) for start, stop in row.spans],
        committed=sum(step >= 0 for step in steps),
        nfe=meter.nfe,
        positions=meter.positions,
        computed=meter.computed(backbone.products),
        kv_read=meter.kv_read,
        forwards=meter.forwards,
        queries=meter.queries,
        time_s=elapsed / rows,
        rows=rows,
        admitted_s=meter.admitted_s,
        latency_s=meter.finished_s if meter.finished_s is not None else elapsed - (meter.admitted_s or 0.0),
        first_block_s=meter.first_block_s,
        forward_s=canvas.meter.forward_s / rows,
        select_s=canvas.meter.select_s / rows,
        peak_memory_bytes=memory_bytes[0],
        call_memory_bytes=memory_bytes[1],
        random=row._rng is not None,
        checks=checks,
        kernels=sorted(canvas.meter.kernels),
    )
