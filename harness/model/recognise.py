"""From a checkpoint's configuration to its family and spec. Families are found by entry point, or in a Python
file given by path.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.model.configuration import check_shape, check_values
from harness.model.ending import end_ids
from harness.model.family import Family, ids
from harness.model.spec import FETCH, CheckpointError, ModelSpec
from harness.model.tokenizer_files import TokenizerFiles
from harness.plugins import Plugin, did_you_mean, from_entry_point, from_file, registered
from harness.records.outside import read_json, reason

GROUP = "dllm_bench.families"
MASK_TOKENS = ("<|mask|>", "<|MASK|>", "|<MASK>|")
"""How the published tokenizers write their mask."""

_ADDED: dict[str, Plugin] = {}
"""Families registered in this process, by name; they are asked before the installed ones, the latest
first.
"""


@cache
def _installed() -> dict[str, Plugin]:
    """Families by entry point, those of other distributions first."""
    found = [
        _checked(from_entry_point(point), f"entry point {name}")
        for name, point in sorted(registered(GROUP).items())
    ]
    if not any(plugin.source == "built-in" for plugin in found):
        raise CheckpointError(
            "this installation is older than its files and knows no model family: pip install -e . (or make "
            "install)"
        )
    return {
        plugin.value.name: plugin for plugin in sorted(found, key=lambda plugin: plugin.source == "built-in")
    }


def _known() -> dict[str, Plugin]:
    return {
        **dict(reversed(_ADDED.items())),
        **{name: plugin for name, plugin in _installed().items() if name not in _ADDED},
    }


def _checked(plugin: Plugin, origin: str) -> Plugin:
    if not isinstance(plugin.value, Family):
        raise CheckpointError(f"{origin} is no Family (harness.model.family): see CONTRIBUTING.md")
    return plugin


def family_names() -> list[str]:
    """Names of all families that can be loaded."""
    return sorted(_known())


def register_family(family: Family, source: str = "this process") -> Family:
    """Make a family known in this process; it is asked before the installed ones, and one of the same name
    gives way.
    """
    _ADDED.pop(family.name, None)
    _ADDED[family.name] = _checked(Plugin(family, source), source)
    return family


def open_family(name: str) -> Family:
    """A family by name, or the FAMILY of a Python file, which is registered; CheckpointError if there is
    none.
    """
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise CheckpointError(
                f"family file {name!r} not found: --family takes a Python file or one of "
                f"{', '.join(family_names())}"
            )
        plugin = _checked(from_file(path, "FAMILY", CheckpointError), f"FAMILY of {path}")
        return register_family(plugin.value, plugin.source)
    if name not in _known():
        text = (
            f"unknown family {name!r}: {did_you_mean(name, family_names())}--family takes "
            f"{', '.join(family_names())}"
        )
        raise CheckpointError(f"{text}, or a file such as ./mine.py")
    return _known()[name].value


def family_source(name: str) -> str | None:
    """Where a family comes from that this package does not ship (a file's sha256, a distribution), else
    None.
    """
    source = _known()[name].source
    return None if source == "built-in" else source


def _refuse_experts(raw: dict[str, Any]) -> None:
    """CheckpointError, by name, for a mixture of experts, whoever claims it: ``model_type: llada`` is shared
    with LLaDA-MoE.
    """
    named = str(raw.get("model_type", ""))
    classes = raw.get("architectures")
    architecture = str(classes[0] if isinstance(classes, list) and classes else named)
    count = raw.get("num_experts") or raw.get("n_routed_experts") or raw.get("num_local_experts")
    if count or "moe" in named.lower():
        text = (
            f"{architecture} (model_type {named}) is a mixture of {count} experts, which are not built here"
        )
        raise CheckpointError(
            f"{text}: --model needs a dense model such as GSAI-ML/LLaDA-8B-Instruct or JetLM/SDAR-1.7B-Chat"
        )


def family_of(raw: dict[str, Any]) -> Family:
    """The family of a ``config.json``; CheckpointError for an unknown one and for mixtures of experts.

    ``model_type`` alone does not tell: Efficient-DLM says qwen3.
    """
    _refuse_experts(raw)
    found = next((plugin.value for plugin in _known().values() if plugin.value.claims(raw)), None)
    if found is None:
        text = f"model_type {raw.get('model_type')!r} is not supported; known: {', '.join(family_names())}"
        raise CheckpointError(f"{text}; a family of your own is one file: --family ./mine.py")
    return found


def spec_of_config(raw: dict[str, Any], family: Family | None = None) -> ModelSpec:
    """Translate one ``config.json`` dictionary, of the family that claims it unless one is given."""
    _refuse_experts(raw)
    check_values(raw)
    chosen = family_of(raw) if family is None else family
    try:
        spec = chosen.spec({key: value for key, value in raw.items() if value is not None})
    except KeyError as error:
        raise CheckpointError(f"config.json ({chosen.name}) lacks the key {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"config.json ({chosen.name}) has a value of the wrong kind ({reason(error)}): {FETCH}"
        ) from None
    check_shape(spec)
    return spec


def read_spec(folder: Path, family: Family | None = None) -> ModelSpec:
    """Read ``config.json``, and ``generation_config.json`` and the tokenizer's files for further ids that end
    an answer.

    Raises CheckpointError for a missing file or a family we do not know.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"no config.json in {folder}: --model must name a checkpoint folder")
    raw = read_json(path, CheckpointError, advice=FETCH)
    _refuse_experts(raw)
    check_values(raw, path)
    generation = folder / "generation_config.json"
    if generation.exists():
        told = read_json(generation, CheckpointError, advice=FETCH)
        check_values(told, generation)
        raw = {**raw, "eos_token_id": ids(raw.get("eos_token_id")) + ids(told.get("eos_token_id"))}
    chosen = family_of(raw) if family is None else family
    if raw.get("mask_token_id") is None:
        found = None if chosen.attention == "causal" else mask_in_tokenizer(folder)
        raw = {key: value for key, value in raw.items() if key != "mask_token_id"} | (
            {} if found is None else {"mask_token_id": found}
        )
    spec = spec_of_config(raw, chosen)
    further = [
        token
        for token in end_ids(folder, spec.pad_id, (spec.mask_id, spec.bos_id))
        if token < spec.vocab_size
    ]
    return replace(spec, name=folder.name, eos_ids=tuple(dict.fromkeys([*spec.eos_ids, *further])))


def mask_in_tokenizer(folder: Path) -> int | None:
    """The mask id that ``tokenizer_config.json`` or ``added_tokens.json`` tells: its mask token, else a token
    written like a mask.
    """
    files = TokenizerFiles(folder)
    return next(
        (files.added[text] for text in (files.role("mask_token"), *MASK_TOKENS) if text in files.added), None
    )
