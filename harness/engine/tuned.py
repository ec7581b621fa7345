"""Settings of a method that were tuned on some test set, by name and with their source:
``--method klass:preset=llada_gsm8k``.

The list is data (``methods/tuned.yaml``), so that the harness names no method. Of a model's whole evaluation:
harness.model.presets.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from harness.decoding.settings import SettingError


class Tuned(BaseModel):
    """One preset of one method."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(min_length=1)
    settings: dict[str, Any] = Field(min_length=1)


@cache
def tuned_presets() -> dict[str, dict[str, Tuned]]:
    """All presets by method and name."""
    text = (files("methods") / "tuned.yaml").read_text()
    return TypeAdapter(dict[str, dict[str, Tuned]]).validate_python(yaml.safe_load(text))


def tuned_settings(method: str, name: str) -> dict[str, Any]:
    """The settings of a method's preset; SettingError lists what there is."""
    known = tuned_presets().get(method, {})
    if name not in known:
        offer = f"it has {', '.join(known)}" if known else "it has none"
        raise SettingError(f"method {method} has no preset={name}: {offer} (methods/tuned.yaml)")
    return dict(known[name].settings)
