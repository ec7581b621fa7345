"""The windows of stored answers, and the requests that force them on a model of another shape.

A sample holds [query, cached, stored] of each forward pass: how many positions were fed, how many stored ones
were attended to, how many were kept. A replay feeds as many behind as many, so that keys, products and bytes
are those of the run on the new shape; where in the row they lie, and whom a mask hid, is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.decoding.backbone import Backbone
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.masks import FULL, Mask
from harness.errors import UserError
from harness.records.files import digest
from harness.records.schema import Run, Sample


class WindowError(UserError, ValueError):
    """Windows that cannot be replayed, and the flag to change."""


@dataclass(frozen=True)
class Window:
    """One row's part of one pass, and the positions that get logits."""

    query: int
    cached: int
    stored: int
    asked: int


Script = list[Window]
"""The passes of one answer."""


def with_prompt(samples: Sequence[Sample], tokens: int) -> list[Sample]:
    """The same forwards behind a prompt of ``tokens``: a pass that started at position 0 feeds it, any other
    one has it cached.
    """
    moved = []
    for sample in samples:
        extra = tokens - sample.prompt_tokens
        forwards = [
            (max(query + extra, 1), cached, stored)
            if cached == 0
            else (query, max(cached + extra, 0), stored)
            for query, cached, stored in sample.forwards
        ]
        moved.append(sample.model_copy(update={"forwards": forwards, "prompt_tokens": tokens}))
    return moved


def chosen(run: Run, samples: Sequence[Sample], answers: int, rows: Sequence[int]) -> list[Sample]:
    """The first ``answers`` samples of a run, more where a batch of the most ``rows`` needs them.

    WindowError for too few of them, and for a run that computed parts of windows inside the layers.
    """
    usable = [
        sample
        for sample in samples
        if sample.repeat == 0 and sample.status == "ok" and sample.forwards and sample.useful is not None
    ]
    wanted = max(answers, *rows)
    if len(usable) < wanted:
        raise WindowError(
            f"run {run.run_id} has {len(usable)} answers with recorded windows, {wanted} are wanted: lower "
            "--answers or --rows, or give another run with --replay"
        )
    found = usable[:wanted]
    for sample in found:
        fed = sum(query for query, _, _ in sample.forwards)
        if sample.positions is not None and sample.positions != fed:
            raise WindowError(
                f"run {run.run_id} computed {sample.positions} positions in windows of {fed} (document "
                f"{sample.doc_id}): its cache works inside the layers, which windows alone do not replay; "
                "leave it out of --replay"
            )
    return found


def scripts(samples: Sequence[Sample], canvas: int, logits: int) -> list[Script]:
    """The passes of each answer. Logits at every fed position that may still be unwritten then, at most
    ``logits``: a run does not record how many were asked for.
    """
    found = []
    for sample in samples:
        behind = canvas - len(sample.step_map)
        script = []
        for place, (query, cached, stored) in enumerate(sample.forwards):
            unwritten = behind + sum(step >= place or step < 0 for step in sample.step_map)
            script.append(Window(query, cached, stored, max(1, min(query, unwritten, logits))))
        found.append(script)
    return found


def windows_hash(found: Sequence[Script]) -> str:
    """sha256 over what is replayed, 16 hex digits."""
    return digest([[[w.query, w.cached, w.stored, w.asked] for w in script] for script in found])


def steps(batch: Sequence[Script]) -> Iterator[dict[int, Window]]:
    """What rows decoded together share, pass by pass: {row: window}; a row that is done drops out."""
    for place in range(max(map(len, batch))):
        yield {row: script[place] for row, script in enumerate(batch) if place < len(script)}


def blank(
    backbone: Backbone, batch: Sequence[Script], prompts: Sequence[int]
) -> tuple[Canvas, KVCache | None]:
    """A canvas that holds every window of a batch behind ``prompts`` positions, and a store if one is needed.

    WindowError for windows beyond the model's context.
    """
    spec = backbone.spec
    ends = [max(window.query + window.cached for window in script) for script in batch]
    if max(ends) > spec.max_positions:
        raise WindowError(
            f"windows of {max(ends)} positions exceed the context of {spec.max_positions} of {spec.name}: "
            "lower --query, --cached or --prompt-tokens"
        )
    canvas = Canvas(
        [[0] * prompt for prompt in prompts],
        max(1, *(end - prompt for end, prompt in zip(ends, prompts, strict=True))),
        vocab_size=spec.vocab_size,
        mask_id=spec.mask_id,
        eos_ids=spec.eos_ids,
        device=backbone.device,
        stop_rule="reference",
    )
    stores = any(window.cached or window.stored for script in batch for window in script)
    return canvas, backbone.new_cache(canvas) if stores else None


def place(
    backbone: Backbone, cache: KVCache | None, step: dict[int, Window], mask: Mask = FULL
) -> dict[int, Forward]:
    """The requests of one pass; the store is made to hold what each row has cached, whatever it held
    before.
    """
    shift = int(backbone.spec.shift)
    requests = {}
    for row, window in step.items():
        start = window.cached
        if cache is not None:
            cache.clear(row)
            cache.mark(row, range(start), {})
        kept = min(window.stored, window.query) if cache is not None else 0
        requests[row] = Forward(
            feed=(start, start + window.query),
            at=range(start + shift, start + shift + window.asked),
            keep=(start, start + kept) if kept else None,
            mask=mask,
        )
    return requests
