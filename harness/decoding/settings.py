"""Decoder settings: ``key=value`` text or lm-eval model arguments into a method's frozen Config."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError


class SettingError(UserError, ValueError):
    """A setting that is unknown, out of range, or contradicts another; the text names the one to change."""


def parse_pairs(pairs: Iterable[str], flag: str = "--set") -> dict[str, str]:
    """{"threshold": "0.9"} from ["threshold=0.9"]; SettingError for text without "="."""
    settings = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise SettingError(f"{flag} {pair!r} is not key=value")
        settings[key.strip()] = value.strip()
    return settings


def build_config(method: str, config_type: type[Any], settings: Mapping[str, Any]) -> Any:
    """A validated Config; text values are converted, "none" means null.

    Raises SettingError naming the unknown key (with close matches) or the value and its allowed range.
    """
    fields = {field.name for field in dataclasses.fields(config_type)}
    for key in settings:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise SettingError(f"method {method} has no setting {key!r}: {hint}it has {', '.join(sorted(fields))}")
    values = {key: None if isinstance(value, str) and value.lower() in ("none", "null") else value for key, value in settings.items()}
    try:
        return TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:  # raised by the class itself: settings that do not go together
            raise SettingError(f"{detail['msg'].removeprefix('Value error, ')} (method {method})") from None
        key = str(detail["loc"][0])
        raise SettingError(f"--set {key}={settings.get(key)}: {detail['msg']} (method {method})") from None


def settings_of(config: Any) -> dict[str, Any]:
    """All settings of a Config as plain values."""
    return dataclasses.asdict(config)


def changed_settings(config: Any) -> dict[str, Any]:
    """The settings whose values are not the defaults of their Config."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {key: value for key, value in settings_of(config).items() if value != defaults[key]}


def describe(config_type: type[Any]) -> list[tuple[str, str, str, str]]:
    """(name, type, default, description) per setting, for ``bench list`` and --help."""
    hints = typing.get_type_hints(config_type, include_extras=True)
    schema = TypeAdapter(config_type).json_schema()
    rows = []
    for field in dataclasses.fields(config_type):
        info = schema["properties"][field.name]
        rows.append((field.name, _type_text(hints[field.name]), str(field.default).lower(), info.get("description", "")))
    return rows


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if arguments := typing.get_args(hint):
        return " | ".join(_type_text(argument) for argument in arguments)
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
