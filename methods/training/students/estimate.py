"""Shapes and memory of a training before it starts, so that what cannot fit is seen before hours are
spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.model.spec import ModelSpec
from methods.training.students.student import Student

GB = 1e9
LOGITS = 5  # raw, aligned, float32, log-probabilities and their gradient, in units of one float32 tensor
SETS = 6  # weights, gradient, two moments, teacher snapshot, running average
EXTRA_SETS = 4  # weights, gradient, two moments


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose; an estimate from shapes, not a measurement."""

    base: float
    trained: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.base + self.trained + self.activations + self.logits


def memory(student: Student[Any]) -> Memory:
    """Weights, optimiser state, and what one batch keeps for its backward pass."""
    options, spec = student.options, student.model.spec
    trained = [
        count(group) * (SETS if place == 0 else EXTRA_SETS) * 4
        for place, (group, _) in enumerate(student.groups)
    ]
    base = sum(p.numel() * p.element_size() for p in student.model.parameters() if not p.requires_grad)
    kept = 2 if options.precision == "bf16" else 4
    activations = options.tokens * spec.num_layers * activation_width(spec) * kept
    return Memory(base, sum(trained), activations, LOGITS * options.tokens * spec.vocab_size * 4)


def activation_width(spec: ModelSpec) -> int:
    """Numbers that one layer keeps per token: norms, inputs of the projections, rotated heads and the gated
    MLP (counted in tests).
    """
    return (
        10 * spec.hidden_size
        + 2 * (spec.num_heads + spec.num_kv_heads) * spec.head_dim
        + 4 * spec.intermediate_size
    )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def describe(student: Student[Any]) -> str:
    """Some lines for the screen: model, what is trained, batch, steps, memory."""
    options, spec, need = student.options, student.model.spec, memory(student)
    total = sum(p.numel() for p in student.model.parameters())
    shapes = sorted({f"{tuple(p.shape)}" for p in student.rounds.student}, key=len)
    what = "all weights" if options.rank == 0 else f"LoRA rank {options.rank} on {', '.join(options.targets)}"
    rows = [
        f"{student.method}: {spec.family} model of {spec.num_layers} layers, hidden {spec.hidden_size}, "
        f"vocabulary {spec.vocab_size}, "
        f"{total / 1e6:.1f} M parameters with adapters, {student.device}, {options.precision}",
        f"trained: {what}, {count(student.rounds.student) / 1e6:.2f} M numbers in "
        f"{len(student.rounds.student)} tensors "
        f"({', '.join(shapes[:6])}{', ...' if len(shapes) > 6 else ''})",
        f"data: {len(student.data.pool)} rows, {student.data.facts['source']}; canvas {options.canvas}",
        f"batch: {options.tokens} tokens x {options.accumulate} per step, {student.ranks.count} rank(s); "
        f"{options.rounds} round(s) of {options.every} steps",
        f"memory, estimated: base {need.base / GB:.3f} GB, trained sets {need.trained / GB:.3f}, activations "
        f"{need.activations / GB:.3f}, "
        f"logits {need.logits / GB:.3f}, together {need.total / GB:.3f} GB",
    ]
    return "\n".join(rows)
