"""Known models: shipped ones by short name, hub ids with their companions and sensible settings.

The list itself is data (``methods/models/models.yaml``), so that the harness names no model or method.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict


class Entry(BaseModel):
    """One known model.

    ``companions`` answers what a method requires: "adapter:NAME" -> adapter, "causal_lm" -> AR model.
    ``settings`` are per-method defaults for this model; ``canvas`` its default max_new_tokens. ``adapter`` is the folder of an
    adapter that makes this model of the one in ``path``.
    """

    model_config = ConfigDict(extra="forbid")

    summary: str = ""
    path: str | None = None
    adapter: str | None = None
    canvas: int | None = None
    add_bos_token: bool | None = None
    companions: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}


@cache
def catalog() -> dict[str, Entry]:
    """Every known model by name."""
    text = (files("methods") / "models" / "models.yaml").read_text()
    return {name: Entry.model_validate(entry or {}) for name, entry in yaml.safe_load(text).items()}


def lookup(name: str) -> Entry:
    """The entry of a model, or an empty one for a model nobody listed."""
    return catalog().get(name, Entry())


def location(name: str) -> str:
    """Folder of a shipped model or adapter; any other name unchanged."""
    path = lookup(name).path
    return name if path is None else _shipped(path)


def own_adapter(name: str) -> str | None:
    """Folder of the adapter that is part of a shipped model; None for any other model."""
    adapter = lookup(name).adapter
    return None if adapter is None else _shipped(adapter)


def adapter_location(name: str) -> str:
    """Folder of an adapter: by its own name, or by that of the model it makes."""
    return own_adapter(name) or location(name)


def _shipped(path: str) -> str:
    return str(Path(str(files("methods") / "models")) / path)
