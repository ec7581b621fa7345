"""Projection: the recorded forwards of a run replayed against a device's roofline and a 7B model's cost.

The result is a bound on tokens/s, never a measurement: it assumes that every forward runs at the roof and
that the 7B model needs exactly the forwards that were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.measuring.roofline import Hardware, ModelCost, Roofline, passes
from harness.records.schema import Run, Sample

# Data sheets: memory bandwidth, dense bfloat16 rate.
DEVICES = {
    "a100": Hardware("A100-80", 2.04e12, 312e12),
    "a100-40": Hardware("A100-40", 1.555e12, 312e12),
    "h100": Hardware("H100", 3.35e12, 989e12),
    "h200": Hardware("H200", 4.8e12, 989e12),
}


def _cost(body: float, head: float, layers: int, kv_heads: int, heads: int, head_dim: int) -> ModelCost:
    """bfloat16 costs from parameter counts; 2 bytes per weight, keys and values per layer."""
    return ModelCost(
        2 * (body + head), 4 * layers * kv_heads * head_dim, 2 * body, 4 * layers * heads * head_dim
    )


# From the released configurations; the embedding is a gather and not counted. tests/reports/test_project.py
# builds both to check.
MODELS = {
    "dream-7b": _cost(6.5256e9, 0.5450e9, 28, 4, 28, 128),
    "llada-8b": _cost(6.9797e9, 0.5180e9, 32, 32, 32, 128),
}


class ProjectError(UserError, ValueError):
    """A projection that cannot be made, and the flag to change."""


@dataclass(frozen=True)
class Projection:
    """Bounds for one run on one device; rates in tokens/s."""

    device: str
    model: str
    useful: int
    forwards: int
    seconds: float
    memory_bound: float

    @property
    def tps(self) -> float:
        """At most so many useful tokens per second."""
        return self.useful / self.seconds

    @property
    def tpf(self) -> float:
        return self.useful / self.forwards


def roofline(device: str, model: str) -> Roofline:
    """ProjectError for a device or model that is not listed."""
    if device not in DEVICES:
        raise ProjectError(f"--device {device!r} is unknown; use {', '.join(DEVICES)}")
    if model not in MODELS:
        raise ProjectError(f"--model {model!r} is unknown; use {', '.join(MODELS)}")
    return Roofline(DEVICES[device], MODELS[model])


def project(
    run: Run, samples: Sequence[Sample], device: str, model: str, prompt_tokens: int | None = None
) -> Projection:
    """Replay a run's forwards; ``prompt_tokens`` puts another prompt length in front of every canvas.

    Raises ProjectError for a run without recorded forwards or useful tokens.
    """
    roof = roofline(device, model)
    usable = [sample for sample in samples if sample.forwards and sample.useful is not None]
    useful = sum(sample.useful or 0 for sample in usable)
    if not useful:
        raise ProjectError(
            f"run {run.run_id} has no samples with recorded forwards and useful tokens: give another RUN"
        )
    if prompt_tokens is not None:
        from harness.measuring.windows import with_prompt  # imports torch

        usable = with_prompt(usable, prompt_tokens)
    joined = passes(usable, run.plan.batch_size)
    times = [roof.seconds(rows) for rows in joined]
    memory = sum(time for time, rows in zip(times, joined, strict=True) if _memory_bound(roof, rows))
    return Projection(
        device, model, useful, sum(len(sample.forwards) for sample in usable), sum(times), memory / sum(times)
    )


def _memory_bound(roof: Roofline, rows: Sequence[tuple[int, int]]) -> bool:
    compute_only = Roofline(Hardware("", float("inf"), roof.hardware.flops), roof.cost)
    return compute_only.seconds(rows) < roof.seconds(rows)


@dataclass(frozen=True)
class Comparison:
    """A published figure beside the bound: ``tpf`` is printed there, 1 by construction, or (``assumed``) the
    run's.
    """

    suite: str
    method: str
    device: str
    engine: str
    tps: float
    tpf: float | None
    assumed: bool
    forwards_per_s: float

    @property
    def share(self) -> float | None:
        """Published tokens/s over the bound at this row's tokens per forward and ``forwards_per_s``."""
        return self.tps / (self.tpf * self.forwards_per_s) if self.tpf else None

    @property
    def least_tpf(self) -> float:
        """Tokens per forward that the published speed needs even at the roof."""
        return self.tps / self.forwards_per_s


def device_key(printed: str) -> str | None:
    """Our key for a device as papers print it ("A100-40 PCIe"); None if it is not listed."""
    text = printed.lower()
    return next((key for key in sorted(DEVICES, key=len, reverse=True) if text.startswith(key)), None)


def plain(name: str) -> str:
    """A method or model name without case and punctuation, to match "fast_dllm" with "Fast-dLLM"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
