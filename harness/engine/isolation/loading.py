"""In the jail: a decoder from its source text or entry point, and what it says of itself."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
import typing
from typing import Any

from harness.decoding.decoder import RowDecoder
from harness.decoding.registry import MethodError, check_members
from harness.decoding.settings import TextIds, build_config, describe, settings_of
from harness.errors import UserError
from harness.model.spec import ModelSpec
from harness.sandbox.inside import wire


def load(origin: dict[str, Any]) -> RowDecoder:
    """The decoder of ``origin``: ``text`` with the ``path`` it came from and a ``module`` name, or an
    ``entry`` "module:attribute".

    Raises MethodError for a file without a METHOD, one that fails, or a decoder that drives the backbone
    itself.
    """
    if "entry" in origin:
        module_name, _, attribute = origin["entry"].partition(":")
        decoder = getattr(importlib.import_module(module_name), attribute)
    else:
        module = types.ModuleType(origin["module"])
        module.__file__ = origin["path"]
        sys.modules[origin["module"]] = module
        try:
            exec(compile(origin["text"], origin["path"], "exec"), module.__dict__)
        except Exception as error:
            raise MethodError(
                f"{origin['path']} could not be imported: {type(error).__name__}: {error}"
            ) from error
        if not hasattr(module, "METHOD"):
            raise MethodError(f"{origin['path']} defines no METHOD: end the file with METHOD = YourDecoder()")
        decoder = module.METHOD
    name = origin.get("path") or f"entry point {origin['name']}"
    check_members(decoder, name)
    if getattr(type(decoder), "decode", None) is not RowDecoder.decode or "decode" in vars(decoder):
        text = (
            f"{name} has a decode of its own, which drives the model from inside the harness: write "
            "decode_row"
        )
        raise MethodError(
            f"{text}, or run it in the harness' own process with --no-isolate (the run says so)"
        )
    if not dataclasses.is_dataclass(decoder.Config) or not decoder.Config.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        raise MethodError(f"{name}: Config must be a frozen dataclass")
    return decoder


def portrait(decoder: RowDecoder) -> dict[str, Any]:
    """What the judge has to know of a decoder, as plain data."""
    hints = typing.get_type_hints(decoder.Config, include_extras=True)
    meanings = {name: (kind, text) for name, kind, _, text in describe(decoder.Config)}
    settings = []
    for field in dataclasses.fields(decoder.Config):
        marks = [
            mark.text for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, TextIds)
        ]
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            raise MethodError(f"setting {field.name} of {decoder.name} has no default")
        kind, text = meanings[field.name.rstrip("_")]
        settings.append([field.name, wire.encode(default), kind, text, marks[0] if marks else None])
    return {
        "name": decoder.name,
        "summary": decoder.summary,
        "requires": sorted(decoder.requires),
        "lossless": getattr(decoder, "lossless", False) is True,
        "needs_answer_position": getattr(decoder, "needs_answer_position", False) is True,
        "settings": settings,
    }


def spec_in(data: Any) -> ModelSpec:
    return ModelSpec(**wire.decode(data))


def config_in(decoder: RowDecoder, data: Any) -> Any:
    return decoder.Config(**wire.decode(data))


def reply(decoder: RowDecoder, question: list[Any]) -> Any:
    """The answer to one question: ["configure", values], ["check", spec, config, new_tokens] or
    ["uses_cache", config].
    """
    match question:
        case ["configure", values]:
            config = build_config(decoder.name, decoder.Config, wire.decode(values))
            names = {field.name.rstrip("_"): field.name for field in dataclasses.fields(decoder.Config)}
            return wire.encode({names[key]: value for key, value in settings_of(config).items()})
        case ["check", spec, config, new_tokens]:
            decoder.check(spec_in(spec), config_in(decoder, config), new_tokens)
            return None
        case ["uses_cache", config]:
            return bool(decoder.uses_cache(config_in(decoder, config)))
        case _:
            raise MethodError("an unknown question")


def told(error: BaseException) -> list[Any]:
    """An error as a message: whether it is the user's to mend, its type, its text."""
    return ["error", isinstance(error, UserError), type(error).__name__, str(error)[:2000]]
