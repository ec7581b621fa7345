"""Shapes and memory of a training before it starts, so that what cannot fit is seen before hours are
spent.

The estimate is arithmetic on shapes; `python -m tests.tools.memory_check` holds it against measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import nn

from harness.model.spec import ModelSpec
from methods.training.loop.places import STEP, piece_of
from methods.training.options import LINEAR, StudentOptions, TrainingError
from methods.training.students.student import Student

GB = 1e9
SETS = 6  # weights, gradient, two moments, teacher snapshot, running average
EXTRA_SETS = 4  # weights, gradient, two moments
WITH_GRADIENTS = 1.4
"""A block that is computed again with the gradients inside it, in units of what it keeps (measured)."""
GPUS = (80.0, 141.0)
USABLE = 0.9
"""Share of a device that may be planned for; the rest is the allocator's and the driver's."""


@dataclass(frozen=True)
class Reading:
    """How a loss reads its logits: ``copies`` in float32 alive at the peak (measured), of the places worked
    on together; ``graphs`` of the blocks that are kept at once.
    """

    copies: float
    graphs: int = 1


READINGS = {
    "cfd": Reading(5.25),
    "d3llm": Reading(5.25),
    "d2f": Reading(5.0),
    "lockstep": Reading(3.0),
    "sdtt": Reading(7.0),
    "dcd": Reading(7.0),
    "dimo": Reading(10.0, graphs=2),
}


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose; an estimate from shapes, not a measurement. ``copies`` are those of the weights in
    the type of the products, which the backward pass keeps; ``gathered`` what divided weights, and their
    gradients, take while they compute.
    """

    base: float
    copies: float
    trained: float
    activations: float
    logits: float
    gathered: float = 0.0

    @property
    def total(self) -> float:
        return self.base + self.copies + self.trained + self.activations + self.logits + self.gathered


@dataclass(frozen=True)
class Run:
    """What decides the memory of one batch on one device: shapes, counted numbers, kind of device. ``row``:
    tokens of the longest row, of which a share ``masked`` is read. ``shards`` the trained sets are divided
    into, 0 where they are not.
    """

    spec: ModelSpec
    method: str
    frozen: int
    trained: int
    extra: int
    row: int
    masked: float
    tokens: int
    rank: int
    targets: frozenset[str]
    bf16: bool
    checkpointing: bool
    cpu: bool
    shards: int = 0

    @property
    def base_bytes(self) -> int:
        """Of a frozen number: adapters on an accelerator sit on a base in bfloat16."""
        return 4 if self.cpu or not self.rank else 2


def run_of(student: Student[Any]) -> Run:
    """The run as it is about to start."""
    options = student.options
    return Run(
        spec=student.model.spec,
        method=student.method,
        frozen=sum(p.numel() for p in student.model.parameters() if not p.requires_grad),
        trained=count(student.rounds.student),
        extra=sum(count(group) for group, _ in student.groups[1:]),
        row=student.longest,
        masked=min(1.0, options.canvas / student.longest) * _masked_share(options),
        tokens=options.tokens,
        rank=options.rank,
        targets=frozenset(options.targets if options.rank else LINEAR),
        bf16=options.precision == "bf16",
        checkpointing=options.gradient_checkpointing,
        cpu=student.device.type == "cpu",
        shards=student.ranks.count if options.shard else 0,
    )


def _masked_share(options: StudentOptions) -> float:
    """Largest share of a canvas that a method masks at once, where its settings say so; a mask and its
    complement have half each.
    """
    if getattr(options, "complement", False) or hasattr(options, "widths"):
        return 0.5
    rates = (getattr(options, name, None) for name in ("rate_to", "rate", "high"))
    return float(next((rate for rate in rates if rate is not None), 1.0))


def memory(run: Run) -> Memory:
    """Weights, optimiser state, and what one batch keeps for its backward pass."""
    spec, tokens = run.spec, max(run.tokens, run.row)
    reading = READINGS[run.method]
    block = tokens * layer_bytes(run)
    residual = tokens * spec.hidden_size * (4 if run.cpu or not run.rank else 2)
    places = -(-round(tokens * run.masked) // STEP) * STEP
    rows = min(piece_of(spec.vocab_size), places)
    logits = reading.copies * rows * spec.vocab_size * 4
    if run.checkpointing:  # a block is computed again when the logits are gone
        graph = spec.num_layers * residual + max(0.0, WITH_GRADIENTS * block - logits) / reading.graphs
    else:
        graph = spec.num_layers * block
    return Memory(
        base=run.frozen * run.base_bytes,
        copies=_copies(run),
        trained=4.0 * (SETS * run.trained / max(1, run.shards) + EXTRA_SETS * run.extra),
        activations=reading.graphs * graph,
        logits=logits,
        gathered=_gathered(run),
    )


def _gathered(run: Run) -> float:
    """Of divided weights: embeddings and head with their gradients, and two blocks (one computes, the next is
    on its way) with one's gradients.
    """
    if run.shards < 2:
        return 0.0
    ends = _ends(run.spec)
    return 4.0 * (2 * ends + 3 * (run.trained - ends) / run.spec.num_layers)


def _ends(spec: ModelSpec) -> int:
    """Numbers of embeddings and head."""
    return spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)


def _copies(run: Run) -> float:
    """bfloat16 copies of float32 weights: of all blocks, or with checkpointing of one; and of the head."""
    spec = run.spec
    if not run.bf16 or run.base_bytes == 2:
        return 0.0
    head = spec.vocab_size * spec.hidden_size
    blocks = max(0, run.frozen + (run.trained if not run.rank else 0) - _ends(spec))
    return 2.0 * (head + blocks / (spec.num_layers if run.checkpointing else 1))


def layer_bytes(run: Run) -> float:
    """Bytes that one layer keeps per token."""
    spec = run.spec
    wide, narrow = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    scores = spec.num_heads * run.row * (6 if run.bf16 else 4) if run.cpu else 0
    inputs = {"o_proj": wide, "down_proj": spec.intermediate_size}
    if run.bf16:
        # Inputs of projections without an adapter are not kept.
        spared = sum(inputs.get(name, spec.hidden_size) for name in set(LINEAR) - run.targets)
        return 2.0 * (activation_width(spec) - spared) + scores
    norms = spec.hidden_size * (
        2 + bool(run.targets & {"q_proj", "k_proj", "v_proj"}) + bool(run.targets & {"gate_proj", "up_proj"})
    )
    own = sum(width for name, width in inputs.items() if name in run.targets)
    numbers = norms + own + wide + 2 * narrow + 3 * spec.intermediate_size + run.rank * len(run.targets)
    return 4.0 * numbers + scores


def activation_width(spec: ModelSpec) -> int:
    """Numbers that one layer keeps per token under bfloat16 autocast: norms, inputs of the projections (cast
    one by one), rotated heads and the gated MLP (counted in tests).
    """
    return (
        10 * spec.hidden_size
        + 2 * (spec.num_heads + spec.num_kv_heads) * spec.head_dim
        + 4 * spec.intermediate_size
    )


def fitted(run: Run, step: int, ranks: int, capacity: float) -> Run | None:
    """The run with the largest batches that fit into ``capacity`` bytes per rank, where ``step`` tokens are
    shared evenly among batches and these among ``ranks``; None if not even one row fits.
    """
    accumulate = ranks
    while True:
        tried = replace(run, tokens=max(run.row, -(-step // accumulate)))
        if memory(tried).total <= USABLE * capacity:
            return tried
        if tried.tokens == run.row:
            return None
        accumulate += ranks


def fit(student: Student[Any], capacity: float) -> tuple[int, int]:
    """(tokens, accumulate) of the largest batches that fit; TrainingError if none does."""
    options, run = student.options, run_of(student)
    step = options.tokens * options.accumulate
    found = fitted(run, step, student.ranks.count, capacity)
    if found is None:
        need = memory(replace(run, tokens=run.row)).total
        raise TrainingError(
            f"--fit: one row of {run.row} tokens needs {need / GB:.2f} GB, and "
            f"{USABLE * capacity / GB:.2f} GB may be planned for: --set gradient_checkpointing=true, a "
            "smaller --set canvas or --set rank"
        )
    return found.tokens, batches(step, found.tokens, student.ranks.count)


def batches(step: int, tokens: int, ranks: int) -> int:
    """Batches of so many tokens in a step, a multiple of ``ranks``."""
    return -(-step // (tokens * ranks)) * ranks


def capacity_of(device: torch.device, processes: int) -> float:
    """Bytes of the device; half the processor's memory, shared among the processes of this machine. Not what
    is free just now: a run that goes on must find the same batches.
    """
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total / 2 / processes


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def describe(student: Student[Any]) -> str:
    """Some lines for the screen: model, what is trained, batch, steps, memory here and on GPUs."""
    options, spec, run = student.options, student.model.spec, run_of(student)
    need = memory(run)
    total = sum(p.numel() for p in student.model.parameters())
    shapes = sorted({f"{tuple(p.shape)}" for p in student.rounds.student}, key=len)
    divided = ", divided among the ranks" if student.shards is not None else ""
    what = (
        f"all weights{divided}"
        if options.rank == 0
        else f"LoRA rank {options.rank} on {', '.join(options.targets)}"
    )
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
        f"memory, estimated: base {need.base / GB:.3f} GB, its copies {need.copies / GB:.3f}, trained sets "
        f"{need.trained / GB:.3f}, gathered {need.gathered / GB:.3f}, "
        f"activations {need.activations / GB:.3f}, logits {need.logits / GB:.3f}, "
        f"together {need.total / GB:.3f} GB",
    ]
    return "\n".join([*rows, *on_gpus(run, options.tokens * options.accumulate)])


def on_gpus(run: Run, step: int) -> list[str]:
    """One line per size of GPU: the largest batches of 1, 2 and 8 of them that make the same step."""
    there, lines = replace(run, cpu=False), []
    for size in GPUS:
        told = []
        for ranks in (1, 2, 8):
            found = fitted(replace(there, shards=ranks if run.shards else 0), step, ranks, size * GB)
            if found is None:
                told.append(f"{ranks}: does not fit")
                continue
            shared = f"{batches(step, found.tokens, ranks)} x {found.tokens} tokens"
            told.append(f"{ranks}: {shared}, {memory(found).total / GB:.1f} GB each")
        lines.append(f"on GPUs of {size:.0f} GB, estimated: {'; '.join(told)}")
    return lines
