"""Settings of a method that were tuned on some test set, by name and with their source:
``--method klass:preset=llada_gsm8k``.

The list is data (``methods/tuned.yaml``), so that the harness names no method. Of a model's whole evaluation:
harness.model.presets.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.decoding.settings import SettingError
from harness.records.outside import parse_yaml, reason


class Tuned(BaseModel):
    """One preset of one method."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(min_length=1)
    settings: dict[str, Any] = Field(min_length=1)


@cache
def tuned_presets() -> dict[str, dict[str, Tuned]]:
    """All presets by method and name."""
    return parse_presets((files("methods") / "tuned.yaml").read_text(), "methods/tuned.yaml")


def parse_presets(text: str, where: str) -> dict[str, dict[str, Tuned]]:
    """The presets of a list; SettingError names what is wrong with it."""
    try:
        return TypeAdapter(dict[str, dict[str, Tuned]]).validate_python(parse_yaml(text, where, SettingError))
    except ValidationError as error:
        raise SettingError(f"{where}: {reason(error)}") from None


def tuned_settings(method: str, name: str) -> dict[str, Any]:
    """The settings of a method's preset; SettingError lists what there is."""
    known = tuned_presets().get(method, {})
    if name not in known:
        offer = f"it has {', '.join(known)}" if known else "it has none"
        raise SettingError(f"method {method} has no preset={name}: {offer} (methods/tuned.yaml)")
    return dict(known[name].settings)
