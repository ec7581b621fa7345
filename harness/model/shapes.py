"""Models by shape alone: random weights at the sizes of a released checkpoint, for timing.

The list is data (``methods/models/shapes.yaml``): the keys of each config.json that decide shapes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.model.catalog import location
from harness.model.load import fill, resolve, unfilled
from harness.model.recognise import read_spec, spec_of_config
from harness.model.spec import CheckpointError, ModelSpec
from harness.model.transformer import Transformer

STRETCH = (1 << 22) + 43
"""Random values that are drawn; longer weights repeat them."""


class Shape(BaseModel):
    """One entry of the list: a configuration, or the ``model`` whose configuration it has."""

    model_config = ConfigDict(extra="forbid")

    summary: str = ""
    source: str = ""
    config: dict[str, Any] | None = None
    model: str | None = None


@cache
def shapes() -> dict[str, Shape]:
    """All shapes by name."""
    text = (files("methods") / "models" / "shapes.yaml").read_text()
    return {name: Shape.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


def shape_spec(name: str, layers: int | None = None) -> ModelSpec:
    """The spec of a shape, cut to its first ``layers``. CheckpointError for a shape that is not listed, or
    layers that it lacks.
    """
    if name not in shapes():
        raise CheckpointError(f"--shape {name!r} is unknown; use {', '.join(shapes())}")
    entry = shapes()[name]
    spec = (
        read_spec(resolve(location(entry.model))) if entry.model else spec_of_config(dict(entry.config or {}))
    )
    if layers is not None and not 1 <= layers <= spec.num_layers:
        raise CheckpointError(f"--layers {layers}: {name} has {spec.num_layers}")
    return replace(spec, name=name, num_layers=layers or spec.num_layers)


def weight_count(spec: ModelSpec) -> int:
    """Numbers that a model's weights are, each once; nothing is allocated."""
    return sum(part.numel() for part in unfilled(spec).parameters())


def random_transformer(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Transformer:
    """A model of that spec with random weights (standard deviation 0.02; norms and biases are 1), made on the
    device.
    """
    model = unfilled(spec)
    wanted = {name: tuple(part.shape) for name, part in model.named_parameters()}
    longest = max(torch.Size(shape).numel() for shape in wanted.values())
    noise = torch.randn(min(STRETCH, longest), device=device).mul_(0.02).to(dtype)
    state = {
        name: torch.ones(shape, dtype=dtype, device=device) if len(shape) == 1 else _filled(shape, noise)
        for name, shape in wanted.items()
    }
    fill(model, state, device)
    return model


def _filled(shape: tuple[int, ...], noise: Tensor) -> Tensor:
    whole = torch.empty(shape, dtype=noise.dtype, device=noise.device)
    flat = whole.view(-1)
    for start in range(0, len(flat), len(noise)):
        piece = flat[start : start + len(noise)]
        piece.copy_(noise[: len(piece)])
    return whole
