"""From what ``bench run`` was asked for to its cells: which settings and prompts each method gets on each
suite.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harness.decoding.registry import Method
from harness.decoding.settings import SettingError, parse_pairs, setting_names, setting_text, settings_of
from harness.engine.isolation.finding import find_method
from harness.engine.opening import Opened, Weights, Wish, check_targets, open_engine
from harness.engine.served.generator import open_served
from harness.model.presets import Preset, preset
from harness.model.text import chat_text
from harness.records.schema import StopRule
from harness.runs.cell import Cell, Item, Options, render
from harness.runs.memory_plan import plan_memory
from harness.runs.served import ServedCell
from harness.runs.suite import FEWSHOT_SEED, Rendering, Suite
from suites.suite import load_suite


@dataclass(frozen=True)
class Prompting:
    """How prompts are to be written; None: as the preset has it, and without one as the suite has it (no chat
    template).
    """

    template: str = "default"
    num_fewshot: int | None = None
    fewshot_seed: int = FEWSHOT_SEED
    chat: bool | None = None
    multiturn: bool | None = None


@dataclass(frozen=True)
class Asked:
    """What every cell of an invocation is made of. ``pairs`` are the texts of --set, ``preset`` that of
    --preset.
    """

    methods: list[str]
    suites: list[str]
    pairs: list[str]
    weights: Weights
    seed: int = 0
    stop_rule: StopRule = "harness"
    prompting: Prompting = field(default_factory=Prompting)
    preset: str | None = None
    isolate: bool | None = None
    engine: str | None = None


def plan_cells(asked: Asked, options: Options, tell: Callable[[str], None]) -> Iterator[Cell]:
    """The cells, suite by suite; every one is checked before the first run folder is made. ``tell`` gets a
    line per preset used.
    """
    planned = [one for name in asked.suites for one in _on_suite(asked, name, options)]
    weights = [engine.loaded.held for engine, *_ in planned]
    if asked.engine is None and plan_memory(weights).together:
        # Whatever is wrong with them is said now.
        for held in weights:
            held.get()
    for engine, suite, items, values in planned:
        if values is not None:
            tell(taken(engine, suite, values))
        kind = Cell if asked.engine is None else ServedCell
        yield kind(engine.generator, engine.method, suite, items, options, values)


def _on_suite(
    asked: Asked, name: str, options: Options
) -> list[tuple[Opened, Suite, list[Item], Preset | None]]:
    if asked.engine is not None:
        return [_served(asked, asked.engine, name, options)]
    wishes = [Wish.parse(text) for text in asked.methods]
    methods = [find_method(wish.method, asked.isolate) for wish in wishes]
    known = [key for method in methods for key in setting_names(method.decoder.Config)]
    shared, chosen = parse_pairs(asked.pairs), [method.name for method in methods]
    check_targets(shared, chosen)
    # A suite that does not exist, or a template that it does not have, is said before a model is loaded.
    plain = load_suite(name, _data(), Rendering(asked.prompting.template))
    values = [_values(asked, method, plain.name) for method in methods]
    rendered: dict[Any, tuple[Suite, list[Item]]] = {}
    found = []
    for wish, known_values in zip(wishes, values, strict=True):
        defaults = known_values.settings if known_values else {}
        more: dict[str, Any] = {
            "seed": asked.seed,
            "stop_rule": asked.stop_rule,
            "defaults": defaults,
            "isolate": asked.isolate,
            "lazy": True,
        }
        engine = open_engine(wish, asked.weights, shared, known=known, chosen=chosen, **more)
        suite, items = _prompts(
            name, asked.prompting, known_values, engine.loaded.tokenizer, options.limit, rendered
        )
        _suits(engine, suite)
        _refuse_twin(engine, [one for one, *_ in found])
        engine.generator.check_fits(
            [item.prompt for item in items], engine.generator.canvas(suite.canvas, suite.blocks)
        )
        found.append((engine, suite, items, known_values))
    return found


def _served(
    asked: Asked, name: str, suite_name: str, options: Options
) -> tuple[Opened, Suite, list[Item], None]:
    """An engine in place of the methods."""
    load_suite(suite_name, _data(), Rendering(asked.prompting.template))
    engine = open_served(name, asked.weights, parse_pairs(asked.pairs), options.batch_size, asked.seed)
    suite, items = _prompts(suite_name, asked.prompting, None, engine.loaded.tokenizer, options.limit, {})
    if suite.blocks:
        raise SettingError(
            f"--engine {name} writes one text, and {suite.name} wants reasoning and answer in blocks: change "
            "--suite, or leave --engine out"
        )
    canvas = engine.generator.canvas(suite.canvas, suite.blocks)
    engine.generator.check_fits([item.prompt for item in items], canvas)
    return engine, suite, items, None


def _values(asked: Asked, method: Method, suite: str) -> Preset | None:
    return None if asked.preset is None else preset(asked.preset, asked.weights.model, method.name, suite)


def _data() -> str | None:
    return os.environ.get("BENCH_DATA")


def rendering_for(asked: Prompting, values: Preset | None, tokenizer: Any) -> Rendering:
    """How one checkpoint's prompts are written: what was asked for, else the preset's way; the chat template
    is the checkpoint's own.
    """
    known = None if values is None or values.chat is None else values.chat
    chat = asked.chat if asked.chat is not None else known not in (None, "none")
    multiturn = asked.multiturn if asked.multiturn is not None else known != "one_turn"
    shots = asked.num_fewshot if asked.num_fewshot is not None or values is None else values.num_fewshot
    return Rendering(
        asked.template, shots, asked.fewshot_seed, partial(chat_text, tokenizer) if chat else None, multiturn
    )


def _prompts(
    name: str,
    asked: Prompting,
    values: Preset | None,
    tokenizer: Any,
    limit: int | None,
    known: dict[Any, tuple[Suite, list[Item]]],
) -> tuple[Suite, list[Item]]:
    """The suite with its documents rendered; methods whose prompts are written alike share them."""
    rendering = rendering_for(asked, values, tokenizer)
    key = (rendering.num_fewshot, rendering.multiturn, None if rendering.chat is None else id(tokenizer))
    if key not in known:
        suite = load_suite(name, _data(), rendering)
        known[key] = suite, render(suite, limit)
    return known[key]


def _suits(engine: Opened, suite: Suite) -> None:
    """SettingError for a method that cannot answer a suite, or whose settings do not fit its canvas; before
    any folder is made.
    """
    decoder = engine.method.decoder
    if suite.needs_code and getattr(decoder, "needs_answer_position", False):
        raise SettingError(
            f"{decoder.name} watches the position of a short answer, and {suite.name} asks for code: change "
            "--method or --suite"
        )
    engine.generator.canvas(suite.canvas, suite.blocks)


def _refuse_twin(engine: Opened, others: Sequence[Opened]) -> None:
    """SettingError for a method that comes twice with the same settings: both would be one run."""
    config = engine.generator.config
    if any(one.method.name == engine.method.name and one.generator.config == config for one in others):
        raise SettingError(
            f"--method {engine.method.name} comes twice with the same settings (its defaults count too): "
            "remove one or change a setting"
        )


def taken(engine: Opened, suite: Suite, values: Preset) -> str:
    """One line: which values of a preset a method takes on a suite, which ones flags replaced, and where they
    come from.
    """
    record = values.record(settings_of(engine.generator.config), suite.rendering.told())
    kept = ", ".join(
        setting_text(key, value) for key, value in record["values"].items() if key not in record["replaced"]
    )
    text = f"preset {values.name}: {engine.method.name} on {suite.name}: {kept}; from {values.source}"
    replaced = ", ".join(setting_text(key, value) for key, value in record["replaced"].items())
    return (
        text
        + (f"; by flags: {replaced}" if replaced else "")
        + (f"; note: {values.note}" if values.note else "")
    )
