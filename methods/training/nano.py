"""The recipe of nano: an autoregressive parent, then a gentle conversion to masked diffusion.

Dream was made the same way: the shift (logits at p predict token p + 1) lets a causal model go on as
a bidirectional one. A masked-diffusion model of this size trained from scratch learns far slower
(docs/log.md). The parent must pass a validation gate before the conversion starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.data.batches import Batch, Stream, causal_mask, cross_entropy_at
from methods.training.data.corpus import EOS, MASK, Mix, cached_pool, save_tokenizer, train_tokenizer
from methods.training.data.corruption import Corruption, corrupt, diffusion_loss
from methods.training.export import data_hash, nano_spec, save_card, save_model
from methods.training.loop.loop import Counted, Hooks, LoopOptions, generator_for, train_loop
from methods.training.loop.optim import build_optimisers
from methods.training.precision import fast_products, native_bfloat16
from methods.training.validation import AR, DIFFUSION_MODES, Mode, require_jail, score
from suites.generators.frozen import DATA


class GateError(RuntimeError):
    """The autoregressive parent is too weak to be converted."""


M = TypeVar("M")


@dataclass(frozen=True)
class Phase(Generic[M]):
    """One phase of training: ``tokens`` per step, top learning rates of Muon and AdamW, shares of the
    corpus.
    """

    loop: LoopOptions
    muon_lr: float
    adam_lr: float
    mix: M
    tokens: int = 2048


@dataclass(frozen=True)
class RecipeOptions:
    """``output`` receives the model folders; ``work`` holds checkpoints, logs and the token pool of
    ``pool_items`` items, and a run interrupted there continues."""

    output: Path
    work: Path
    seed: int = 0
    threads: int = 1
    pool_items: int = 300_000


@dataclass(frozen=True)
class NanoOptions(RecipeOptions):
    """The shipped recipe of nano and nano-ar.

    ``gate`` is the least greedy pass@1 of the autoregressive parent on the first ``gate_items`` validation
    items of each suite. ``ar_share`` of the conversion's batches are autoregressive at its start, fading to
    none at ``ar_fade`` of its steps. Every ``validate_every`` steps (0: never) and at the end
    ``validation_items`` per suite are decoded.
    """

    parent: Phase[Mix] = field(
        default_factory=lambda: Phase(LoopOptions(2600, decay=0.7), 0.02, 3e-3, Mix(gsm=0.38, drills=0.14))
    )
    conversion: Phase[Mix] = field(
        default_factory=lambda: Phase(LoopOptions(4500, decay=0.7), 0.005, 8e-4, Mix(gsm=0.34, drills=0.06))
    )
    gate: float = 0.75
    gate_items: int = 96
    ar_share: float = 0.5
    ar_fade: float = 0.7
    corruption: Corruption = field(default_factory=Corruption)
    validate_every: int = 0
    validation_items: int = 256
    modes: tuple[Mode, ...] = DIFFUSION_MODES
    spec: ModelSpec | None = None


def new_model(spec: ModelSpec, seed: int) -> Transformer:
    """A freshly initialised model: normal(0, 0.02) matrices, residual outputs scaled down by depth."""
    torch.manual_seed(seed)
    model = Transformer(spec)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            scale = (
                (2 * spec.num_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            )
            torch.nn.init.normal_(parameter, std=0.02 * scale)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    model.matmul_attention = True
    return model


def autoregressive_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean next-token loss over response and eos; prompts are context only."""
    device = model.lm_head.weight.device
    ids = torch.from_numpy(batch.ids).to(device)
    length = ids.shape[1]
    with fast_products():
        hidden = model.hidden(ids, mask=causal_mask(length, device))
        column = np.arange(length)[None]
        wanted = (column >= batch.prompts[:, None]) & (column < batch.ends[:, None])
        target = torch.from_numpy(np.flatnonzero(wanted)).to(device)
        losses = cross_entropy_at(model, hidden, target - 1, ids.flatten()[target])
    return losses.mean()


def conversion_loss(
    model: Transformer, stream: Stream, step: int, mask_id: int, options: NanoOptions
) -> Tensor:
    """An autoregressive batch with fading probability, else a masked-diffusion batch."""
    share = options.ar_share * max(0.0, 1 - step / (options.ar_fade * options.conversion.loop.steps))
    if generator_for(stream.seed, step, 3).random() < share:
        return autoregressive_loss(model, stream.batch(step))
    return diffusion_loss(model, corrupt(stream, step, mask_id, options.corruption))


def recipe_tokenizer(options: NanoOptions) -> Tokenizer:
    """The tokenizer of the recipe, trained once per work folder."""
    path = options.work / "tokenizer"
    if not (path / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(options.seed + 11), path)
    return Tokenizer.from_file(str(path / "tokenizer.json"))


def stream_of(options: NanoOptions, tokenizer: Tokenizer, phase: Phase[Mix], number: int) -> Stream:
    """Batches of one phase; every phase has its own order."""
    pool = cached_pool(options.work, tokenizer, options.seed + 1, options.pool_items, phase.mix)
    return Stream(pool, options.seed + 5 + number, phase.tokens, tokenizer.token_to_id(EOS))


def _autoregressive_step(model: Transformer, stream: Callable[[], Stream], step: int) -> Tensor:
    return autoregressive_loss(
        model, stream().batch(step)
    )  # built at the first step: a finished phase needs no pool


def train_phase(
    title: str,
    model: Transformer,
    phase: Phase[Any],
    loss: Callable[[int], Tensor],
    folder: Path,
    check: Any = None,
    every: int = 0,
) -> float:
    """Run one phase to its end (or finish an interrupted one); minutes spent on it in all."""
    optimisers, counted = build_optimisers(model, phase.muon_lr, phase.adam_lr), Counted(loss, phase.tokens)
    hooks, watch = Hooks(tokens=counted.take), check if every else None
    return train_loop(title, model, optimisers, counted, phase.loop, folder, watch, every, hooks) / 60


def train_nano(options: NanoOptions) -> dict[str, float]:
    """Train nano-ar and nano and write both folders; returns nano's validation figures.

    Raises GateError if the parent's validation pass@1 is below ``options.gate`` on either suite.
    """
    require_jail()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = recipe_tokenizer(options)
    model = new_model(options.spec or nano_spec(tokenizer.get_vocab_size()), options.seed)
    parent_stream = cache(partial(stream_of, options, tokenizer, options.parent, 0))
    minutes = train_phase(
        "ar", model, options.parent, partial(_autoregressive_step, model, parent_stream), options.work / "ar"
    )
    figures = score(model, tokenizer, (AR,), options.gate_items)
    ship(options, model, tokenizer, "nano-ar", "bench train nano", options.parent, minutes, figures)
    if min(figures["gsm/ar"], figures["code/ar"]) < options.gate:
        raise GateError(
            f"the autoregressive parent reaches only {figures} on validation (gate {options.gate}); train "
            "it longer"
        )
    stream = stream_of(options, tokenizer, options.conversion, 1)
    mask_id = tokenizer.token_to_id(MASK)
    check = lambda _: score(model, tokenizer, (Mode("block"), Mode("full"), Mode("block", threshold=0.9)), 64)  # noqa: E731
    loss = lambda step: conversion_loss(model, stream, step, mask_id, options)  # noqa: E731
    minutes = train_phase(
        "nano", model, options.conversion, loss, options.work / "diffusion", check, options.validate_every
    )
    figures = score(model, tokenizer, options.modes, options.validation_items)
    ship(options, model, tokenizer, "nano", "bench train nano", options.conversion, minutes, figures)
    return figures


def ship(
    options: RecipeOptions,
    model: Transformer,
    tokenizer: Tokenizer,
    name: str,
    command: str,
    phase: Phase[Any],
    minutes: float,
    figures: dict[str, float],
) -> None:
    """Write one shipped folder with its card; ``name`` ends with -ar for the autoregressive parent of a
    model.
    """
    diffusion = not name.endswith("-ar")
    child = name.removesuffix("-ar")
    save_model(options.output / name, model, tokenizer, diffusion)
    text = (
        f"Masked-diffusion model in Dream's layout, converted from {name}-ar."
        if diffusion
        else f"Autoregressive parent of {child}: same size, same tokenizer, causal attention."
    )
    batches = f" in {phase.loop.accumulate} batches" if phase.loop.accumulate > 1 else ""
    facts = {
        "command": f"`{command}`",
        "seed": options.seed,
        "steps": f"{phase.loop.steps} of {phase.tokens * phase.loop.accumulate} tokens{batches}",
        "wall time": f"{minutes:.0f} min, {options.threads} CPU thread(s), "
        f"{'bfloat16 autocast' if native_bfloat16() else 'float32'}",
        "training items": f"{options.pool_items} generated",
        "hash of the frozen sets": data_hash(DATA),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
    }
    save_card(options.output / name, name, text, figures, facts)
