"""Known models: shipped ones by short name, hub ids with their companions and sensible settings.

The list itself is data (``methods/models/models.yaml``), so that the harness names no model or method.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from harness.model.packaged import packaged_folder


class Entry(BaseModel):
    """One known model.

    ``companions`` answers what a method requires: "adapter:NAME" -> adapter, "causal_lm" -> AR model.
    ``settings`` are per-method defaults for this model; ``canvas`` its max_new_tokens where neither the user nor the suite names one;
    ``canvas_trained`` the longest canvas that it was trained for: a suite's longer one is cut to it, an explicit request is not.
    ``end_tokens``: the special tokens that end an answer, instead of all that its tokenizer has for it. ``path`` may be an adapter's
    folder: the model is then the adapter's base with it.
    ``package``: the Python package whose GGUF file ``path`` is. ``attention``: which
    kind it was trained with, where config.json does not tell.
    """

    model_config = ConfigDict(extra="forbid")

    summary: str = ""
    path: str | None = None
    package: str | None = None
    canvas: int | None = None
    canvas_trained: int | None = None
    end_tokens: list[str] | None = None
    add_bos_token: bool | None = None
    companions: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
    attention: Literal["full", "block_causal"] | None = None


@cache
def catalog() -> dict[str, Entry]:
    """Every known model by name."""
    text = (files("methods") / "models" / "models.yaml").read_text()
    return {name: Entry.model_validate(entry or {}) for name, entry in yaml.safe_load(text).items()}


def lookup(name: str) -> Entry:
    """The entry of a model, or an empty one for a model nobody listed."""
    return catalog().get(name, Entry())


def folder_of(name: str) -> str:
    """Folder of a shipped model or adapter; any other name unchanged."""
    path, package = lookup(name).path, lookup(name).package
    if path is not None and package is not None:
        return str(packaged_folder(package, path, name))
    return name if path is None else str(Path(str(files("methods") / "models")) / path)


def own_adapter(name: str) -> str | None:
    """The folder behind a name if it holds an adapter instead of a model, else None."""
    folder = folder_of(name)
    return folder if (Path(folder) / "adapter_config.json").exists() and not (Path(folder) / "config.json").exists() else None


def base_of(name: str) -> str:
    """The model under a name: of an adapter its base, as its configuration names it."""
    adapter = own_adapter(name)
    return name if adapter is None else json.loads((Path(adapter) / "adapter_config.json").read_text())["base_model_name_or_path"]


def location(name: str) -> str:
    """Folder with configuration, weights and tokenizer of a model; a hub id unchanged."""
    base = base_of(name)
    return folder_of(name) if base == name else location(base)
