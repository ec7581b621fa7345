"""Models by name: shipped, a folder, a hub id, or an adapter's name; their weights, hashes and what a student
must match.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness.model.adapter import Adapter
from harness.model.catalog import (
    adapter_config,
    base_of,
    catalog,
    folder_of,
    location,
    lookup,
    own_adapter,
    shipped_folder,
)
from harness.model.ending import ids_of
from harness.model.load import load_transformer, resolve, weights_hash
from harness.model.recognise import open_family, read_spec
from harness.model.spec import FETCH, CheckpointError, ModelSpec
from harness.model.tokenizer import tokenizer_hash
from harness.model.tokenizer_files import TokenizerFiles
from harness.model.transformer import Transformer
from harness.records.files import digest
from harness.records.outside import read_json
from harness.records.printable import printable

folder_hash = lru_cache(maxsize=None)(weights_hash)
"""``weights_hash``, remembered for the life of the process."""


def model_hash(name: str) -> str:
    """Hash of a model's weights (16 hex digits), half of it the adapter's where the name is an adapter's."""
    adapter = own_adapter(name)
    if adapter is None:
        return folder_hash(resolve(location(name)), "model")
    return model_hash(base_of(name))[:8] + folder_hash(Path(adapter), "adapter_model")[:8]


def configuration_hash(name: str, adapter: str | None = None) -> str | None:
    """Hash of what a model's configuration (and that of an adapter on it) adds to the weights: RoPE, heads,
    norms, the adapter's scale (16 hex digits). None for what ships with this package, whose names stand for
    one configuration.

    Fields at their defaults do not count, so that a field of later versions leaves the hash as it is.
    """
    told: list[dict[str, Any]] = []
    if shipped_folder(name) is None:
        told.append(_unusual(spec_of(name)))
        if (own := own_adapter(name)) is not None:
            told.append(_scaling(Path(own)))
    if adapter is not None and shipped_folder(adapter) is None:
        folder = resolve(folder_of(adapter), "--adapter")
        told.append(_unusual(spec_of(name, folder)) if holds_all_weights(folder) else _scaling(folder))
    return digest(told) if told else None


def _unusual(spec: ModelSpec) -> dict[str, Any]:
    values = ((one.name, getattr(spec, one.name), one.default) for one in fields(spec) if one.compare)
    return {name: value for name, value, default in values if value != default}


def _scaling(folder: Path) -> dict[str, Any]:
    config = adapter_config(folder)
    return {name: config.get(name) for name in ("r", "lora_alpha", "use_rslora")}


def transformer_of(name: str, dtype: torch.dtype, device: torch.device) -> Transformer:
    """The model of a name, folder or hub id; behind an adapter's name its base with the adapter merged."""
    adapter = own_adapter(name)
    if adapter is None:
        return load_transformer(resolve(location(name)), dtype, device, spec_of(name))
    model = transformer_of(base_of(name), dtype, device)
    Adapter(Path(adapter)).merge(model)
    model.spec = told(name, model.spec)
    return model


def spec_of(name: str, folder: Path | None = None) -> ModelSpec:
    """The spec of a model by name (or of the files in ``folder``, a copy or student of it) with what the
    catalogue tells of it.
    """
    if own_adapter(name) is not None:
        return told(name, spec_of(base_of(name), folder))
    family = lookup(name).family
    return told(
        name, read_spec(folder or resolve(location(name)), None if family is None else open_family(family))
    )


def told(name: str, spec: ModelSpec) -> ModelSpec:
    """The spec with what the catalogue says of the model; full attention means that it never learned blocks.

    CheckpointError for an end that the tokenizer lacks.
    """
    entry = lookup(name)
    changed = entry.overrides()
    if entry.attention == "full":
        changed["block_size"] = None
    if entry.end_tokens is not None:
        folder = resolve(location(name))
        try:
            changed["eos_ids"] = ids_of(folder, entry.end_tokens)
        except KeyError as error:
            raise CheckpointError(
                f"end_tokens of {name} in models.yaml: its tokenizer in {folder} has no {error}"
            ) from None
    return replace(spec, **changed)


def adds_bos(model: str, folder: Path) -> bool:
    """Whether prompts get a beginning-of-text id: what is known of the model, else what its
    tokenizer_config.json says.
    """
    known = lookup(model).add_bos_token
    return bool(TokenizerFiles(folder).config.add_bos_token if known is None else known)


def holds_all_weights(folder: Path) -> bool:
    """Whether a student's folder is a checkpoint instead of a PEFT adapter."""
    return (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()


def check_adapter(folder: Path, model: str) -> None:
    """CheckpointError if the card or the configuration of a LoRA adapter names another base than ``model``.

    Published configurations may name a folder of their author's machine; only names that the catalogue knows
    can be told apart.
    """
    config, told = adapter_config(folder), _card(folder)
    change = "change --adapter or --model"
    if told.get("model_hash") and told["model_hash"] not in (model_hash(model), model_hash(base_of(model))):
        origin = _origin(told)
        raise CheckpointError(
            f"{folder} was trained from {origin}, not from {model} ({model_hash(model)}): {change}"
        )
    base = config.get("base_model_name_or_path")
    known = isinstance(base, str) and base in catalog()
    if known and base != base_of(model) and base_of(model) in catalog():
        raise CheckpointError(f"{folder} was trained from {base}, not from {model}: {change}")


def _card(folder: Path) -> dict[str, Any]:
    """What training noted beside the weights; empty without a card."""
    card = folder / "card.json"
    return read_json(card, CheckpointError, advice=FETCH) if card.exists() else {}


def _origin(card: dict[str, Any]) -> str:
    return printable(f"{card.get('model')} ({card.get('model_hash')})")


def check_student(folder: Path, model: str) -> None:
    """CheckpointError unless ``folder`` holds a student of ``model``: its card says so, shape and tokenizer
    are the same.
    """
    base = resolve(location(model))
    if not (told := _card(folder)):
        raise CheckpointError(
            f"{folder} is a checkpoint without a card.json that names its base: pass it as --model instead "
            "of --adapter"
        )
    if told.get("model_hash") != model_hash(model):
        origin = _origin(told)
        raise CheckpointError(
            f"{folder} was trained from {origin}, not from {model} ({model_hash(model)}): change --adapter "
            "or --model"
        )
    if spec_of(model, folder) != spec_of(model) or tokenizer_hash(folder) != tokenizer_hash(base):
        raise CheckpointError(
            f"{folder} has another shape or tokenizer than {model}: pass it as --model instead of --adapter"
        )
