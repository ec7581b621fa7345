"""From a model name and what a method requires to a ready backbone, tokenizer and provenance."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.kernels import Implementation, choice_name, implementation
from harness.engine.held import Held
from harness.model import ModelSpec
from harness.model.adapter import Adapter
from harness.model.catalog import folder_of, location, lookup
from harness.model.checkpoint import (
    adds_bos,
    check_adapter,
    check_student,
    configuration_hash,
    folder_hash,
    holds_all_weights,
    model_hash,
    spec_of,
    transformer_of,
)
from harness.model.compiled import check_compiler, compile_layers
from harness.model.device import pick_device, pick_dtype
from harness.model.load import load_transformer, resolve, stored_numbers
from harness.model.quantize import SCHEMES, quantize
from harness.model.recognise import family_source
from harness.model.spec import CheckpointError
from harness.model.spread import devices_for, placed, spread
from harness.model.tokenizer import load_tokenizer, tokenizer_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A backbone with its tokenizer and everything a run record says about it."""

    held: Held
    tokenizer: Any
    model: str
    checkpoint: str
    weights_hash: str
    tokenizer_hash: str | None = None
    adapter: str | None = None
    adapter_hash: str | None = None
    merged: bool | None = None
    canvas: int | None = None
    add_bos: bool = False
    load_s: float = 0.0
    canvas_trained: int | None = None
    family_source: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    config_hash: str | None = None
    devices: int | None = None

    @property
    def backbone(self) -> Backbone:
        """The model; loads it if its weights are not in memory."""
        return self.held.get()

    @property
    def spec(self) -> ModelSpec:
        return self.held.spec


def in_training(backbone: Backbone, tokenizer: Any, name: str = "in training") -> Loaded:
    """What a Generator needs around weights that change: no hash, and prompts get no beginning-of-text id.
    Never for a stored run.
    """
    return Loaded(Held.ready(backbone), tokenizer, model=name, checkpoint=name, weights_hash="in training")


def load(
    model: str,
    requires: Iterable[str] = (),
    *,
    adapter: str | None = None,
    merge: bool = True,
    dtype: str = "auto",
    device: str | None = None,
    lazy: bool = False,
    attention: str = "auto",
    compiled: bool = False,
    device_map: str | None = None,
) -> Loaded:
    """Load what ``model`` and the method's requirements call for (weights are shared between calls).

    ``adapter`` None takes the model's known companion if the method requires one, "none" takes none; a
    student's checkpoint (all weights) counts as an adapter of the model that its card names. ``lazy`` leaves
    the weights where they are until they are used. ``attention``: see harness.decoding.kernels;
    ``compiled``: see harness.model.compiled. Raises CheckpointError for anything missing or of the wrong
    kind, AttentionError and CompileError for what cannot be had here.
    """
    started = time.perf_counter()
    needs = frozenset(requires)
    companions = lookup(model).companions
    target = pick_device(device)
    checkpoint = model
    if "causal_lm" in needs and spec_of(model).diffusion:
        if "causal_lm" not in companions:
            raise CheckpointError(
                f"this method needs an autoregressive model and {model} is none: pass --model "
                "CAUSAL_CHECKPOINT"
            )
        checkpoint = companions["causal_lm"]
    adapter = _companion_adapter(adapter, needs, companions, checkpoint)
    found = resolve(folder_of(adapter), "--adapter") if adapter else None
    whole = found is not None and holds_all_weights(found)
    scheme = dtype if dtype in SCHEMES else None
    precision = pick_dtype(dtype, target)
    kernel = _kernel(attention, target, precision, compiled)
    if compiled:
        check_compiler(target)
    devices = _devices(
        device_map, target, f"--dtype {scheme}" if scheme else "--compile" if compiled else None
    )
    held = _held(
        checkpoint, spec_of(checkpoint), found, merge, precision, target, scheme, kernel, compiled, devices
    )
    if "mask_token" in needs and held.spec.mask_id is None:
        raise CheckpointError(
            f"{checkpoint} has no mask token: this method needs a diffusion model (--model nano, "
            "Dream, LLaDA)"
        )
    if "blocks" in needs and held.spec.block_size is None:
        text = (
            f"{checkpoint} attends to everything at once and never learned blocks: this method needs a "
            "block-diffusion model"
        )
        raise CheckpointError(f"{text} (--model with SDAR, Fast-dLLM v2 or Tiny-A2D weights)")
    if "uniform_state" in needs and not held.spec.uniform_state:
        text = f"{checkpoint} is no uniform-state model (model_type uniform in its config.json)"
        raise CheckpointError(f"{text}: train one with bench train duo and pass --model FOLDER")
    folder = resolve(location(checkpoint))
    known = lookup(checkpoint)
    loaded = Loaded(
        held=held,
        tokenizer=_tokenizer(folder),
        model=model,
        checkpoint=checkpoint,
        weights_hash=model_hash(checkpoint),
        tokenizer_hash=tokenizer_hash(folder),
        adapter=adapter,
        adapter_hash=folder_hash(found, "model" if whole else "adapter_model") if found else None,
        merged=merge if found and not whole else None,
        canvas=lookup(model).canvas or known.canvas,
        add_bos=adds_bos(checkpoint, folder),
        load_s=time.perf_counter() - started,
        canvas_trained=lookup(model).canvas_trained or known.canvas_trained,
        family_source=family_source(held.spec.family),
        overrides=known.overrides(),
        config_hash=configuration_hash(checkpoint, adapter),
        devices=devices,
    )
    if not lazy:
        held.get()
    return loaded


def _companion_adapter(
    adapter: str | None, needs: frozenset[str], companions: dict[str, str], checkpoint: str
) -> str | None:
    if adapter == "none":
        return None
    if adapter is not None:
        return adapter
    for need in sorted(needs):
        if need.startswith("adapter:"):
            if need in companions:
                return companions[need]
            log.warning(
                "no %s is known for %s: running the bare checkpoint (pass --adapter FOLDER)",
                need.replace(":", " "),
                checkpoint,
            )
    return None


def _devices(device_map: str | None, device: torch.device, unfit: str | None) -> int | None:
    """How many devices the blocks are to lie on; None: one, and nothing was asked. ``unfit``: what else was
    asked that needs one device.
    """
    if device_map is None:
        return None
    if device_map != "auto":
        raise CheckpointError(f"--device-map {device_map!r} is unknown; use auto, or leave it out")
    if unfit is not None:
        raise CheckpointError(f"--device-map auto and {unfit} do not go together: leave one out")
    return devices_for(device)


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@lru_cache(maxsize=8)
def _kernel(attention: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> Implementation:
    return implementation(attention, device, dtype, compiled)


@lru_cache(maxsize=8)
def _held(
    checkpoint: str,
    spec: ModelSpec,
    folder: Path | None,
    merge: bool,
    dtype: torch.dtype,
    device: torch.device,
    scheme: str | None = None,
    kernel: Implementation | None = None,
    compiled: bool = False,
    devices: int | None = None,
) -> Held:
    """One copy for all methods that compute with the same weights. Raises CheckpointError for an adapter of
    another model.
    """
    whole = folder is not None and holds_all_weights(folder)
    if folder is not None and whole:
        check_student(folder, checkpoint)
    elif folder is not None and (folder / "adapter_config.json").exists():
        check_adapter(folder, checkpoint)

    def size() -> int:
        stored = folder if whole and folder is not None else resolve(location(checkpoint))
        return stored_numbers(stored) * torch.empty(0, dtype=dtype).element_size()

    def opened() -> Backbone:
        first = device if devices is None else torch.device("cpu")
        backbone = _backbone(checkpoint, spec, folder, merge, dtype, first)
        if devices is not None:
            backbone.device = torch.device("cuda", 0)
            spread(backbone._model, backbone.device, placed(backbone._model))
        backbone.kernel = kernel if kernel is not None else backbone.kernel
        if scheme is not None:
            quantize(backbone._model, scheme)
        if compiled:
            compile_layers(backbone._model, device)
        return backbone

    told = spec_of(checkpoint, folder) if whole else spec
    name = "sdpa" if kernel is None else choice_name(kernel)
    return Held(opened, told, dtype, device, size, scheme, name, compiled)


def _backbone(
    checkpoint: str,
    spec: ModelSpec,
    folder: Path | None,
    merge: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Backbone:
    """The model with what is in the adapter's ``folder``; ``spec`` keeps apart what families and the
    catalogue made of one folder.
    """
    if folder is not None and holds_all_weights(folder):
        return Backbone(load_transformer(folder, dtype, device, spec_of(checkpoint, folder)), device, dtype)
    model = transformer_of(checkpoint, dtype, device)
    assert model.spec == spec
    if folder is not None:
        weights = Adapter(folder)
        weights.merge(model) if merge else weights.attach(model)
    return Backbone(model, device, dtype)
