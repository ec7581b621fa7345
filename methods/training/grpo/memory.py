"""Memory of a run per accelerator, by arithmetic: weights, optimiser, reference, decoding copy, activations,
logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from harness.model.recognise import spec_of_config
from harness.model.spec import ModelSpec
from methods.training.grpo.options import GRPOOptions
from methods.training.students.estimate import activation_width

GPU_BYTES = {"80 GB": 80e9, "141 GB": 141e9}
FREE = 0.9
"""Share of an accelerator that may be planned for; the rest is for what is not listed."""


ADVICE = "lower --rows and --batch, or train an adapter (--rank 64)"


@dataclass(frozen=True)
class Estimate:
    """Bytes of one accelerator, by purpose."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def fits(self, capacity: float) -> bool:
        """Whether a tenth of ``capacity`` bytes stays free for what is not listed."""
        return self.total < FREE * capacity


def parameters(spec: ModelSpec) -> int:
    """Weights of the whole model."""
    return (
        _block(spec) * spec.num_layers
        + spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)
        + spec.hidden_size
    )


def _block(spec: ModelSpec) -> int:
    wide, narrow = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    bias = (wide + 2 * narrow) * spec.qkv_bias + spec.hidden_size * spec.o_bias
    return spec.hidden_size * (2 * wide + 2 * narrow + 3 * spec.intermediate_size + 2) + bias


def adapter_parameters(spec: ModelSpec, rank: int) -> int:
    """Weights of a LoRA adapter on all linear layers of the blocks."""
    wide, narrow, hidden, middle = (
        spec.num_heads * spec.head_dim,
        spec.num_kv_heads * spec.head_dim,
        spec.hidden_size,
        spec.intermediate_size,
    )
    sizes = [
        (hidden, wide),
        (hidden, narrow),
        (hidden, narrow),
        (wide, hidden),
        (hidden, middle),
        (hidden, middle),
        (middle, hidden),
    ]
    return rank * sum(sum(size) for size in sizes) * spec.num_layers


def estimate(
    spec: ModelSpec, options: GRPOOptions, accelerators: int, prompt: int = 200, wide: float = 2.0
) -> Estimate:
    """Bytes per accelerator with ``prompt`` tokens of prompt. Trained weights, gradients and AdamW in
    float32, the rest in ``wide`` bytes per number: 2 for bfloat16, 4 on a processor.
    """
    whole, canvas = parameters(spec), options.canvas or 256
    trained = adapter_parameters(spec, options.rank) if options.rank else whole
    shards = 1 if options.rank else accelerators
    positions = options.rows * (prompt + canvas)
    parts = {
        "trained weights": 4 * trained / shards,
        "gradients": 4 * trained / shards,
        "AdamW": 8 * trained / shards,
        "reference": 4 * trained / shards
        if options.beta and (options.sync_every or not options.rank)
        else 0.0,
        "frozen base": wide * whole if options.rank else 0.0,
        "whole copy for decoding": wide * whole if shards > 1 else 0.0,
        "largest gathered layers": 2.0 * 2 * max(_block(spec), spec.vocab_size * spec.hidden_size)
        if shards > 1
        else 0.0,
        "activations": wide * positions * spec.num_layers * activation_width(spec),
        "logits": 3 * 4.0 * options.rows * canvas * spec.vocab_size,
        "decoding": wide * options.batch * (prompt + canvas) * (spec.hidden_size * 8 + spec.vocab_size),
    }
    return Estimate({name: size for name, size in parts.items() if size})


def report(spec: ModelSpec, options: GRPOOptions) -> list[str]:
    """Lines for people: the model at hand, and the one the preset is meant for if that is another."""
    found = _table(spec, options)
    if options.shape:
        own = spec_of_config(options.shape)
        found += (
            []
            if parameters(own) == parameters(spec)
            else ["the model this preset is meant for:", *_table(own, options)]
        )
    return found


def _table(spec: ModelSpec, options: GRPOOptions) -> list[str]:
    kind = f"LoRA rank {options.rank}" if options.rank else "all weights, sharded by FSDP2"
    lines = [
        f"memory per accelerator, {parameters(spec) / 1e9:.3f} B parameters, {kind}, computed and not "
        "measured:",
        _here(spec, options),
    ]
    for accelerators in (1, 2, 8):
        found = estimate(spec, options, accelerators)
        parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in found.parts.items() if size > 5e7)
        fitting = [name for name, size in GPU_BYTES.items() if found.fits(size)]
        verdict = f"fits GPUs of {' and '.join(fitting)}" if fitting else f"does not fit: {ADVICE}"
        lines.append(f"  {accelerators} x GPU: {found.total / 1e9:.1f} GB each, {verdict} ({parts})")
    return lines


def _here(spec: ModelSpec, options: GRPOOptions) -> str:
    """The line for this machine: its workers on its GPUs, or sharing its memory."""
    if options.device.startswith("cuda") and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(options.device)
        name, capacity, wide = device.name, float(device.total_memory), 2.0
    else:
        name, wide = "processor", 4.0 if options.precision == "float32" else 2.0
        capacity = psutil.virtual_memory().total / options.workers
    found = estimate(spec, options, options.workers, wide=wide)
    verdict = "fits" if found.fits(capacity) else f"does not fit: {ADVICE}"
    told = f"{found.total / 1e9:.2f} GB of {capacity / 1e9:.1f} GB, {verdict}"
    return f"  here, {options.workers} worker(s) on {name}: each {told}"
