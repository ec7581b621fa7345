"""From a model name and what a method requires to a ready backbone, tokenizer and provenance."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness.decoding.backbone import Backbone
from harness.model import ModelSpec, Transformer
from harness.model.catalog import base_of, folder_of, location, lookup, own_adapter
from harness.model.load import Adapter, load_transformer, resolve, weights_hash
from harness.model.spec import CheckpointError
from harness.model.tokenizer import load_tokenizer, tokenizer_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A backbone with its tokenizer and everything a run record says about it."""

    backbone: Backbone
    tokenizer: Any
    model: str
    checkpoint: str
    weights_hash: str
    tokenizer_hash: str | None
    adapter: str | None
    adapter_hash: str | None
    merged: bool | None
    canvas: int | None
    add_bos: bool
    load_s: float

    @property
    def spec(self) -> ModelSpec:
        return self.backbone.spec


def pick_device(name: str | None) -> torch.device:
    """A usable torch device; asking for CUDA without one falls back to the CPU with a warning."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        raise CheckpointError(f"--device {name!r} is no torch device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        log.warning("no CUDA device here: running on the CPU instead of %s", name)
        return torch.device("cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on an accelerator, float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise CheckpointError(f"--dtype {name!r} is unknown; use auto, {', '.join(dtypes)}")
    return dtypes[name]


def load(
    model: str,
    requires: Iterable[str] = (),
    *,
    adapter: str | None = None,
    merge: bool = True,
    dtype: str = "auto",
    device: str | None = None,
) -> Loaded:
    """Load what ``model`` and the method's requirements call for (weights are shared between calls).

    ``adapter`` None takes the model's known companion if the method requires one, "none" takes none; a student's checkpoint (all
    weights) counts as an adapter of the model that its card names.
    Raises CheckpointError for anything missing or of the wrong kind.
    """
    started = time.perf_counter()
    needs = frozenset(requires)
    companions = lookup(model).companions
    target = pick_device(device)
    checkpoint = model
    if "causal_lm" in needs and ModelSpec.from_folder(resolve(location(model))).diffusion:
        if "causal_lm" not in companions:
            raise CheckpointError(f"this method needs an autoregressive model and {model} is none: pass --model CAUSAL_CHECKPOINT")
        checkpoint = companions["causal_lm"]
    adapter = _companion_adapter(adapter, needs, companions, checkpoint)
    found = resolve(folder_of(adapter)) if adapter else None
    whole = found is not None and holds_all_weights(found)
    backbone = _backbone(checkpoint, found, merge, pick_dtype(dtype, target), target)
    if "mask_token" in needs and backbone.spec.mask_id is None:
        raise CheckpointError(f"{checkpoint} has no mask token: this method needs a diffusion model (--model nano, Dream, LLaDA)")
    if "uniform_state" in needs and not backbone.spec.uniform_state:
        text = f"{checkpoint} is no uniform-state model (model_type uniform in its config.json)"
        raise CheckpointError(f"{text}: train one with bench train duo and pass --model FOLDER")
    folder = resolve(location(checkpoint))
    known = lookup(checkpoint)
    return Loaded(
        backbone=backbone,
        tokenizer=_tokenizer(folder),
        model=model,
        checkpoint=checkpoint,
        weights_hash=model_hash(checkpoint),
        tokenizer_hash=tokenizer_hash(folder),
        adapter=adapter,
        adapter_hash=_hash(found, "model" if whole else "adapter_model") if found else None,
        merged=merge if found and not whole else None,
        canvas=lookup(model).canvas or known.canvas,
        add_bos=adds_bos(checkpoint, folder),
        load_s=time.perf_counter() - started,
    )


def adds_bos(model: str, folder: Path) -> bool:
    """Whether prompts get a beginning-of-text id: what is known of the model, else what its tokenizer_config.json says."""
    known, path = lookup(model).add_bos_token, folder / "tokenizer_config.json"
    if known is None and path.exists():
        known = json.loads(path.read_text()).get("add_bos_token")
    return bool(known)


def _companion_adapter(adapter: str | None, needs: frozenset[str], companions: dict[str, str], checkpoint: str) -> str | None:
    if adapter == "none":
        return None
    if adapter is not None:
        return adapter
    for need in sorted(needs):
        if need.startswith("adapter:"):
            if need in companions:
                return companions[need]
            log.warning("no %s is known for %s: running the bare checkpoint (pass --adapter FOLDER)", need.replace(":", " "), checkpoint)
    return None


_hash = lru_cache(maxsize=None)(weights_hash)


def model_hash(name: str) -> str:
    """Hash of a model's weights (16 hex digits), half of it the adapter's where the name is an adapter's."""
    adapter = own_adapter(name)
    if adapter is None:
        return _hash(resolve(location(name)), "model")
    return model_hash(base_of(name))[:8] + _hash(Path(adapter), "adapter_model")[:8]


def transformer_of(name: str, dtype: torch.dtype, device: torch.device) -> Transformer:
    """The model of a name, folder or hub id; behind an adapter's name its base with the adapter merged."""
    adapter = own_adapter(name)
    if adapter is None:
        return load_transformer(resolve(location(name)), dtype, device)
    model = transformer_of(base_of(name), dtype, device)
    Adapter(Path(adapter)).merge(model)
    return model


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def holds_all_weights(folder: Path) -> bool:
    """Whether a student's folder is a checkpoint instead of a PEFT adapter."""
    return (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()


def check_student(folder: Path, model: str) -> None:
    """CheckpointError unless ``folder`` holds a student of ``model``: its card says so, shape and tokenizer are the same."""
    base, card = resolve(location(model)), folder / "card.json"
    if not card.exists():
        raise CheckpointError(f"{folder} is a checkpoint without a card.json that names its base: pass it as --model instead of --adapter")
    told = json.loads(card.read_text())
    if told.get("model_hash") != model_hash(model):
        origin = f"{told.get('model')} ({told.get('model_hash')})"
        raise CheckpointError(f"{folder} was trained from {origin}, not from {model} ({model_hash(model)}): change --adapter or --model")
    if ModelSpec.from_folder(folder) != ModelSpec.from_folder(base) or tokenizer_hash(folder) != tokenizer_hash(base):
        raise CheckpointError(f"{folder} has another shape or tokenizer than {model}: pass it as --model instead of --adapter")


@lru_cache(maxsize=3)
def _backbone(checkpoint: str, folder: Path | None, merge: bool, dtype: torch.dtype, device: torch.device) -> Backbone:
    """The model with what is in the adapter's ``folder``."""
    if folder is not None and holds_all_weights(folder):
        check_student(folder, checkpoint)
        return Backbone(load_transformer(folder, dtype, device), device, dtype)
    model = transformer_of(checkpoint, dtype, device)
    if folder is not None:
        weights = Adapter(folder)
        weights.merge(model) if merge else weights.attach(model)
    return Backbone(model, device, dtype)
