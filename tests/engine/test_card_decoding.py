"""Decoders on a stand-in for a GPU: the ids of the CPU, and no tensor of the host where a GPU refuses it.

Every registered method, by default alone and in a ragged batch, in a batch also with sampling and with every
name that its settings offer to choose from (cache policies, algorithms, presets); what they refuse is left
out. Settings that several methods inherit are tried with the first of them.
"""

from __future__ import annotations

import itertools
import json
import shutil
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

import pytest
import torch
from safetensors.torch import save_file

from harness.decoding.backbone import Backbone
from harness.decoding.decoder import Decoder
from harness.decoding.registry import load_method, method_names
from harness.decoding.settings import SettingError, build_config
from harness.measuring.clock import decode
from harness.model.load import load_transformer, tensors
from methods.duo.model import Denoiser, denoiser_spec, save_denoiser
from tests.card import CARD, Card
from tests.conftest import GOLDEN

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]
NEW = 4
SMALL: dict[str, Any] = {
    "block_length": 2,
    "block_size": 2,
    "answer_start": 0,
    "delimiters": "13+165",
    "current_k": 2,
}
"""For a canvas of 4 tokens, where a method has these settings and takes them."""
CANNOT_RUN: dict[str, str] = {}
"""Methods that no tiny checkpoint can run, and why."""

Engines = dict[str, tuple[Backbone, Backbone]]
"""A model by what a method requires, on the CPU and on the card."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    uniform = tmp_path_factory.mktemp("uniform")
    save_denoiser(uniform, Denoiser(denoiser_spec(11, hidden=16, layers=1, heads=2, levels=16), seed=3), 0)
    golden = {"causal_lm": "qwen3_tiny", "blocks": "sdar_tiny", "mask_token": "dream_tiny"}
    folders = {
        name: first_layer(GOLDEN / model, tmp_path_factory.mktemp(model)) for name, model in golden.items()
    }
    return {name: both(folder) for name, folder in {"uniform_state": uniform, **folders}.items()}


def first_layer(golden: Path, folder: Path) -> Path:
    """A checkpoint with one of two layers: half the time."""
    config = json.loads((golden / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    for name in ("generation_config.json", "tokenizer_config.json"):
        if (golden / name).exists():
            shutil.copy(golden / name, folder)
    weights = {name: tensor for name, tensor in tensors(golden) if ".layers.1." not in name}
    save_file(weights, folder / "model.safetensors")
    return folder


def both(folder: Path) -> tuple[Backbone, Backbone]:
    def on(device: torch.device) -> Backbone:
        return Backbone(load_transformer(folder, torch.float32, device), device, torch.float32)

    with Card():
        card = on(CARD)
    return on(CPU), card


def choices(hint: Any) -> Iterator[Any]:
    """The values of every Literal in a type."""
    if typing.get_origin(hint) is Literal:
        yield from typing.get_args(hint)
    elif typing.get_origin(hint) in (Annotated, Union, UnionType):
        for part in typing.get_args(hint):
            yield from choices(part)


@cache
def first_with(owner: type[Any]) -> str:
    """The method that tries the settings of a class that several have as theirs."""
    return next(name for name in method_names() if issubclass(load_method(name).decoder.Config, owner))


def variants(decoder: Decoder) -> Iterator[dict[str, Any]]:
    yield {}
    yield {"temperature": 0.8}
    hints = typing.get_type_hints(decoder.Config, include_extras=True)
    for owner in decoder.Config.__mro__[:-1]:
        if first_with(owner) == decoder.name:
            for name in owner.__annotations__:
                yield from ({name: value} for value in choices(hints[name]))


def configured(decoder: Decoder, backbone: Backbone, settings: dict[str, Any]) -> Any:
    """The Config with as many of the small settings as it takes; None where it refuses ``settings``."""
    fields = decoder.Config.__dataclass_fields__
    small = {name: value for name, value in SMALL.items() if name in fields}
    if "steps" in fields and fields["steps"].default is not None:
        small["steps"] = NEW  # as many as there are tokens; without a default it is the schedule of a paper
    for count in range(len(small) + 1):
        for dropped in itertools.combinations(small, count):
            kept = {name: value for name, value in small.items() if name not in dropped}
            try:
                config = build_config(decoder.name, decoder.Config, {**kept, **settings})
                answers(backbone, decoder, config, PROMPTS[:1])
            except SettingError:
                continue
            return config
    return None


def answers(backbone: Backbone, decoder: Decoder, config: Any, prompts: list[list[int]]) -> list[list[int]]:
    with Card() if backbone.device == CARD else nullcontext():
        rows = decode(backbone, decoder, config, prompts, NEW)
    assert [check for row in rows for check in row.checks if not check.passed] == []
    return [row.output for row in rows]


@pytest.mark.parametrize("method", method_names())
def test_decoders_run_on_the_card_with_the_same_ids(method: str, engines: Engines) -> None:
    if method in CANNOT_RUN:
        pytest.skip(CANNOT_RUN[method])
    decoder = load_method(method).decoder
    cpu, card = next(pair for name, pair in engines.items() if name in decoder.requires)
    for settings in variants(decoder):
        config = configured(decoder, cpu, settings)
        assert config is not None or settings, f"no small settings for {method}"
        if config is None:
            continue
        for prompts in [PROMPTS] if settings else [PROMPTS[:1], PROMPTS]:
            told = f"{settings}, {len(prompts)} rows"
            assert answers(card, decoder, config, prompts) == answers(cpu, decoder, config, prompts), told


def test_a_list_as_index_and_random_numbers_are_those_of_the_device() -> None:
    with Card():
        held = torch.arange(6, device=CARD).view(3, 2)
        assert held[[2]].tolist() == [[4, 5]]
        held[[0, 1], 1] = 9
        assert held.tolist() == [[0, 9], [2, 9], [4, 5]]
        draws = torch.rand(3, generator=torch.Generator(CARD).manual_seed(1), device=CARD)
        with pytest.raises(RuntimeError, match="expected a generator of the tensor's device"):
            torch.rand(3, generator=torch.Generator().manual_seed(1), device=CARD)
    assert draws.tolist() == torch.rand(3, generator=torch.Generator().manual_seed(1)).tolist()
