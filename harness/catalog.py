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
    ``settings`` are per-method defaults for this model; ``canvas`` its default max_new_tokens.
    """

    model_config = ConfigDict(extra="forbid")

    summary: str = ""
    path: str | None = None
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
    entry = catalog().get(name)
    if entry is None or entry.path is None:
        return name
    return str(Path(str(files("methods") / "models")) / entry.path)
