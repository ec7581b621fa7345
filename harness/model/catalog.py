"""Known models: shipped ones by short name, hub ids with their companions and sensible settings.

The list itself is data (``methods/models/models.yaml``), so that the harness names no model or method.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.model.spec import CheckpointError
from harness.records.outside import brief, parse_yaml, read_json, read_text, reason

LIST = "see methods/models/models.yaml for what a list holds"


class Entry(BaseModel):
    """One known model.

    ``companions`` answers what a method requires: "adapter:NAME" -> adapter, "causal_lm" -> AR model.
    ``settings`` are per-method defaults for this model; ``canvas`` its max_new_tokens where neither the user
    nor the suite names one; ``canvas_trained`` the longest canvas that it was trained for: a suite's longer
    one is cut to it, an explicit request is not. ``end_tokens``: the special tokens that end an answer,
    instead of all that its tokenizer has for it. ``chat``: whether its checkpoint was trained with the chat
    template that it brings (null: it was). ``path`` may be an adapter's folder: the model is then the
    adapter's base with it. ``package``: the Python package whose GGUF file ``path`` is.
    ``family``: a family's name or file (in a list of one's own, relative to it) instead of the one that
    claims config.json; ``attention``, ``shift``, ``mask_id``, ``block_size`` and ``end_ids`` (which
    ``end_tokens`` precede) replace what config.json and the family say.
    """

    model_config = ConfigDict(extra="forbid")

    summary: str = ""
    path: str | None = None
    package: str | None = None
    canvas: int | None = None
    canvas_trained: int | None = None
    end_tokens: list[str] | None = None
    add_bos_token: bool | None = None
    chat: bool | None = None
    companions: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
    family: str | None = None
    attention: Literal["full", "block_causal", "causal"] | None = None
    shift: bool | None = None
    mask_id: int | None = None
    block_size: int | None = None
    end_ids: list[int] | None = None

    def overrides(self) -> dict[str, Any]:
        """Fields of the model's spec that this entry replaces."""
        told = {name: getattr(self, name) for name in ("attention", "shift", "mask_id", "block_size")}
        told |= {"eos_ids": None if self.end_ids is None else tuple(self.end_ids)}
        return {name: value for name, value in told.items() if value is not None}


@cache
def catalog() -> dict[str, Entry]:
    """Every known model by name: the shipped list, and the file that BENCH_MODELS names, whose paths are
    relative to it.
    """
    shipped = _entries(
        (files("methods") / "models" / "models.yaml").read_text(), "methods/models/models.yaml"
    )
    if not (own := os.environ.get("BENCH_MODELS")):
        return shipped
    path = Path(own).expanduser()
    if not path.is_file():
        raise CheckpointError(f"BENCH_MODELS={own} cannot be read as a list of models: there is no such file")
    added = _entries(read_text(path, CheckpointError, LIST), f"BENCH_MODELS={own}")
    root = Path(own).expanduser().resolve().parent
    for entry in added.values():
        entry.path = str(root / entry.path) if entry.path and not entry.package else entry.path
        entry.family = (
            str(root / entry.family) if entry.family and entry.family.endswith(".py") else entry.family
        )
    return shipped | added


def _entries(text: str, where: str) -> dict[str, Entry]:
    table = parse_yaml(text, where, CheckpointError, LIST)
    try:
        found = TypeAdapter(dict[str, Entry | None]).validate_python(table or {})
    except ValidationError as error:
        raise CheckpointError(
            f"{where} cannot be read as a list of models ({reason(error)}): {LIST}"
        ) from None
    return {name: entry or Entry() for name, entry in found.items()}


def lookup(name: str) -> Entry:
    """The entry of a model, or an empty one for a model nobody listed."""
    return catalog().get(name, Entry())


def folder_of(name: str) -> str:
    """Folder of a shipped model or adapter; any other name unchanged.

    CheckpointError where the installed package lacks it: a wheel holds the models of the quickstart, a clone
    all of them.
    """
    path, package = lookup(name).path, lookup(name).package
    if path is not None and package is not None:
        from harness.model.packaged import packaged_folder  # imports torch

        return str(packaged_folder(package, path, name))
    if path is None:
        return name
    folder = Path(str(files("methods") / "models")) / path
    if not folder.is_dir() and not Path(path).is_absolute():
        text = (
            f"copy methods/models/{path} of the repository to {folder}, or install from a clone (pip "
            "install -e .)"
        )
        raise CheckpointError(
            f"{name} is not in the installed package, which holds the quickstart's models only: {text}"
        )
    return str(folder)


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that came with this installation; None for every other name."""
    path, package = lookup(name).path, lookup(name).package
    if path is None or package is not None or Path(path).is_absolute():
        return None
    folder = Path(str(files("methods") / "models")) / path
    return folder if folder.is_dir() else None


def own_adapter(name: str) -> str | None:
    """The folder behind a name if it holds an adapter instead of a model, else None."""
    folder = folder_of(name)
    return (
        folder
        if (Path(folder) / "adapter_config.json").exists() and not (Path(folder) / "config.json").exists()
        else None
    )


def adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter's folder; CheckpointError where none can be read."""
    path = folder / "adapter_config.json"
    if not path.exists():
        raise CheckpointError(
            f"no adapter_config.json in {folder}: --adapter must name a PEFT adapter folder"
        )
    return read_json(path, CheckpointError, advice="change --adapter, or fetch it again")


def base_of(name: str) -> str:
    """The model under a name: of an adapter its base, as its configuration names it.

    CheckpointError for an adapter without a base, and for bases that lead round in a circle.
    """
    adapter = own_adapter(name)
    if adapter is None:
        return name
    seen, base = [adapter], _base(adapter)
    further = base
    while (other := own_adapter(further)) is not None:
        if Path(other).resolve() in [Path(one).resolve() for one in seen]:
            raise CheckpointError(
                f"{adapter} is an adapter whose base is an adapter of itself ({brief(base)}): name the "
                "model it was trained from in base_model_name_or_path of its adapter_config.json"
            )
        seen.append(other)
        further = _base(other)
    return base


def _base(adapter: str) -> str:
    base = adapter_config(Path(adapter)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "\0" in base:
        raise CheckpointError(
            f"adapter_config.json of {adapter} names no base (base_model_name_or_path is {brief(base)}): "
            "name the model it was trained from"
        )
    return base


def location(name: str) -> str:
    """Folder with configuration, weights and tokenizer of a model; a hub id unchanged."""
    base = base_of(name)
    return folder_of(name) if base == name else location(base)
