"""Decoder settings: ``key=value`` text or lm-eval model arguments into a method's frozen Config."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError
from harness.records.outside import one_line
from harness.records.printable import printable


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


@dataclasses.dataclass(frozen=True)
class TextIds:
    """Marks a setting that holds the ids of all tokens with ``text`` in them; where it is null, the model's
    tokenizer says which.
    """

    text: str


def setting_names(config_type: type[Any]) -> set[str]:
    """The settings of a Config. A field with an underscore at its end is set without it (``lambda_`` as
    lambda).
    """
    return (
        {_name(field.name) for field in dataclasses.fields(config_type)}
        if dataclasses.is_dataclass(config_type)
        else set()
    )


def _name(field: str) -> str:
    return field.rstrip("_")


def build_config(method: str, config_type: type[Any], settings: Mapping[str, Any]) -> Any:
    """A validated Config; text values are converted, "none" means null.

    Raises SettingError naming the unknown key (with close matches) or the value and its allowed range.
    """
    fields = setting_names(config_type)
    for key in settings:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise SettingError(
                f"method {method} has no setting {key!r}: {hint}it has {', '.join(sorted(fields))}"
            )
    names = {_name(field.name): field.name for field in dataclasses.fields(config_type)}
    values = {
        names[key]: None if isinstance(value, str) and value.lower() in ("none", "null") else value
        for key, value in settings.items()
    }
    try:
        return TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:  # raised by the class itself: settings that do not go together
            raise SettingError(f"{detail['msg'].removeprefix('Value error, ')} (method {method})") from None
        key = _name(str(detail["loc"][0]))
        told = one_line(printable(settings.get(key)), 200)
        raise SettingError(f"--set {key}={told}: {detail['msg']} (method {method})") from None


def settings_of(config: Any) -> dict[str, Any]:
    """All settings of a Config as plain values."""
    return {_name(key): value for key, value in dataclasses.asdict(config).items()}


def setting_text(name: str, value: Any) -> str:
    """``name=value`` as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return f"{name}={str(value).lower()}"
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def with_text_ids(config: Any, vocabulary: Mapping[str, int], decode: Callable[[int], str]) -> Any:
    """The config with its null ``TextIds`` settings filled: ids joined by "+", as text. ``decode``: the text
    of an id.
    """
    hints, missing = typing.get_type_hints(type(config), include_extras=True), {}
    for field in dataclasses.fields(config):
        marks = [mark for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, TextIds)]
        if marks and getattr(config, field.name) is None:
            missing[field.name] = "+".join(
                str(id_) for id_ in sorted(vocabulary.values()) if marks[0].text in decode(id_)
            )
    return dataclasses.replace(config, **missing) if missing else config


def changed_settings(config: Any) -> dict[str, Any]:
    """The settings whose values are not the defaults of their Config."""
    defaults = {_name(field.name): field.default for field in dataclasses.fields(config)}
    return {key: value for key, value in settings_of(config).items() if value != defaults[key]}


def describe(config_type: type[Any]) -> list[tuple[str, str, str, str]]:
    """(name, type, default, description) per setting, for ``bench list`` and --help."""
    hints = typing.get_type_hints(config_type, include_extras=True)
    schema = TypeAdapter(config_type).json_schema()
    rows = []
    for field in dataclasses.fields(config_type):
        info = schema["properties"][field.name]
        rows.append(
            (
                _name(field.name),
                _type_text(hints[field.name]),
                str(field.default).lower(),
                info.get("description", ""),
            )
        )
    return rows


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if arguments := typing.get_args(hint):
        return " | ".join(_type_text(argument) for argument in arguments)
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
