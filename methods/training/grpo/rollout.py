"""Rollouts through the harness' own generation path, by any registered decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.decoding.backbone import Backbone
from harness.decoding.registry import load_method
from harness.engine.generator import Generation, Generator, Request
from harness.engine.loader import in_training
from harness.measuring.clock import Decoded
from harness.model.tokenizer import load_tokenizer


@dataclass(frozen=True)
class RolloutOptions:
    """Which decoder answers, with which settings, on how many new tokens, how many rows at a time."""

    folder: Path
    method: str
    settings: dict[str, Any]
    canvas: int
    batch: int = 64
    seed: int = 0
    stops: tuple[str, ...] = ()


@dataclass
class Rollouts:
    """Answers in the order of the prompts.

    ``outputs`` [answers, canvas] ids (the mask id where nothing was written), ``steps`` [answers, canvas] the
    forward that wrote each (-1: none), ``scored`` [answers, canvas] the tokens of the answer, its end-of-text
    included; ``nfe`` and ``positions`` [answers] as metered. ``texts`` is None and ``status`` says why where
    an answer does not count.
    """

    outputs: Tensor
    steps: Tensor
    scored: Tensor
    nfe: Tensor
    positions: Tensor
    texts: list[str | None] = field(default_factory=list)
    status: list[str] = field(default_factory=list)


def generator_of(options: RolloutOptions, backbone: Backbone) -> Generator:
    """The harness' generator over weights that are being trained."""
    loaded = in_training(backbone, load_tokenizer(options.folder), str(options.folder))
    return Generator(loaded, load_method(options.method).decoder, options.settings, seed=options.seed)


def roll_out(
    options: RolloutOptions, backbone: Backbone, prompts: Sequence[Sequence[int]], repeats: Sequence[int]
) -> Rollouts:
    """Answer each prompt (ids) once; ``repeats`` number the answers of one prompt over the whole training, so
    that each has random numbers of its own, whatever batch or worker decodes it."""
    generator = generator_of(options, backbone)
    requests = [
        Request(list(prompt), options.canvas, options.stops, repeat=repeat)
        for prompt, repeat in zip(prompts, repeats, strict=True)
    ]
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
    found: dict[int, Generation] = {}
    for batch in generator.run([requests[index] for index in order], options.batch):
        for generation in batch:
            found[order[len(found)]] = generation
    mask = backbone.spec.mask_id
    assert mask is not None
    size = (len(requests), options.canvas)
    result = Rollouts(
        outputs=torch.full(size, mask),
        steps=torch.full(size, -1),
        scored=torch.zeros(size, dtype=torch.bool),
        nfe=torch.zeros(len(requests)),
        positions=torch.zeros(len(requests)),
    )
    for index in range(len(requests)):
        _take(result, index, found[index], backbone.spec.eos_ids)
    return result


def _take(result: Rollouts, index: int, generation: Generation, eos_ids: Sequence[int]) -> None:
    row = generation.decoded
    good = generation.status == "ok" and row is not None
    result.texts.append(generation.text if good else None)
    result.status.append(generation.status)
    if row is None:
        return
    length = len(row.output)
    result.outputs[index, :length] = torch.tensor(row.output)
    result.steps[index, :length] = torch.tensor(row.step_map)
    if good:
        result.scored[index, :length] = torch.tensor(scored_places(row, eos_ids))
    result.nfe[index], result.positions[index] = row.nfe, row.positions


def scored_places(row: Decoded, eos_ids: Sequence[int]) -> list[bool]:
    """Written tokens of each block up to its first end-of-text, that token included."""
    marks = [False] * len(row.output)
    for start, stop in row.spans:
        for place in range(start, stop):
            if row.step_map[place] < 0:
                break
            marks[place] = True
            if row.output[place] in eos_ids:
                break
    return marks
