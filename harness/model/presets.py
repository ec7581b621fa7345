"""Settings of published evaluations per model, method and suite, each with its source
(``bench run --preset published``).

The list itself is data (``methods/models/presets.yaml``), so that the harness names no model or method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.errors import UserError
from harness.records.outside import parse_yaml, reason

PUBLISHED = "published"
Chat = Literal["none", "one_turn", "turns"]


class PresetError(UserError, ValueError):
    """A preset that does not exist, or that has nothing for what was asked, with what there is."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Values(_Part):
    """What one evaluation set for one suite; null: its group's, or where that says nothing, the suite's
    own.
    """

    settings: dict[str, Any] = {}
    num_fewshot: int | None = None
    chat: Chat | None = None
    note: str = ""


class Group(_Part):
    """Evaluations of one project with one method: values that all suites share, and each suite's own on top
    of them.
    """

    by: str
    source: str
    models: list[str]
    method: str
    settings: dict[str, Any] = {}
    chat: Chat | None = None
    note: str = ""
    suites: dict[str, Values]


@dataclass(frozen=True)
class Preset:
    """The values for one (model, method, suite). ``settings``: decoder settings, the canvas (max_new_tokens)
    among them.

    ``num_fewshot`` and ``chat`` are null where the source names none; ``note`` says what cannot be repeated
    here.
    """

    name: str
    by: str
    source: str
    settings: dict[str, Any]
    num_fewshot: int | None
    chat: Chat | None
    note: str

    def values(self) -> dict[str, Any]:
        """All values that the source names, settings, number of examples and prompt format alike."""
        prompt = {"num_fewshot": self.num_fewshot, "chat": self.chat}
        return {**self.settings, **{key: value for key, value in prompt.items() if value is not None}}

    def record(self, settings: Mapping[str, Any], prompt: Mapping[str, Any]) -> dict[str, Any]:
        """For the run record; ``settings`` and ``prompt`` (num_fewshot, chat) are those that the run has."""
        had = {**settings, **prompt}
        replaced = {key: had.get(key) for key, value in self.values().items() if had.get(key) != value}
        about = {"name": self.name, "project": self.by, "source": self.source, "note": self.note}
        return {**about, "values": self.values(), "replaced": replaced}


@cache
def groups() -> tuple[Group, ...]:
    """All published evaluations in the order of the list, in which the first that fits counts."""
    return parse_groups(
        (files("methods") / "models" / "presets.yaml").read_text(), "methods/models/presets.yaml"
    )


def parse_groups(text: str, where: str) -> tuple[Group, ...]:
    """The evaluations of a list; PresetError names what is wrong with it."""
    try:
        return tuple(TypeAdapter(list[Group]).validate_python(parse_yaml(text, where, PresetError)))
    except ValidationError as error:
        raise PresetError(f"{where}: {reason(error)}") from None


def preset(name: str, model: str, method: str, suite: str) -> Preset:
    """The values that ``name`` ("published", or "published:PROJECT" for one project's alone) has.

    PresetError names what there is for the model (or which models there are) if there is none.
    """
    known = _of(name)
    for group in known:
        if model in group.models and method == group.method and suite in group.suites:
            own = group.suites[suite]
            note = "; ".join(part for part in (group.note, own.note) if part)
            merged = {**group.settings, **own.settings}
            return Preset(name, group.by, group.source, merged, own.num_fewshot, own.chat or group.chat, note)
    raise PresetError(
        f"--preset {name} has no values for {model} with {method} on {suite}; {_offer(known, model)}"
    )


def _of(name: str) -> list[Group]:
    kind, _, project = name.partition(":")
    projects = list(dict.fromkeys(group.by for group in groups()))
    if kind != PUBLISHED or (":" in name and project not in projects):
        raise PresetError(
            f"--preset {name} is unknown; use {PUBLISHED}, or {PUBLISHED}:PROJECT with one of "
            f"{', '.join(projects)}"
        )
    return [group for group in groups() if project in ("", group.by)]


def _offer(known: list[Group], model: str) -> str:
    """What a preset has for a model, by method; for an unknown model: which models it has."""
    mine = [group for group in known if model in group.models]
    if not mine:
        return f"it has some for {', '.join(dict.fromkeys(name for group in known for name in group.models))}"
    methods: dict[str, list[str]] = {}
    for group in mine:
        methods.setdefault(group.method, []).extend(
            suite for suite in group.suites if suite not in methods.get(group.method, [])
        )
    return "for this model it has " + "; ".join(
        f"{method} on {', '.join(suites)}" for method, suites in methods.items()
    )
