"""How long a canvas is: an explicit request, else the suite's, else the model's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine import loader
from harness.engine.generator import Generator
from harness.lm_eval.model import DiffusionLM
from harness.model import catalog
from harness.model.catalog import Entry, lookup
from methods import vanilla
from suites.suite import load_suite
from tests.conftest import GOLDEN

METHOD: Any = vanilla.METHOD


def generator(model_canvas: int | None, settings: dict[str, Any] | None = None) -> Generator:
    loaded = replace(loader.load(str(GOLDEN / "dream_tiny")), canvas=model_canvas)
    return Generator(loaded, METHOD, settings or {})


@pytest.mark.parametrize(
    ("suite", "canvas"), [("humaneval", 512), ("humaneval_instruct", 768), ("mbpp_instruct", 1024)]
)
def test_the_suites_canvas_comes_before_the_models(suite: str, canvas: int) -> None:
    for model in ("Dream-org/Dream-v0-Instruct-7B", "GSAI-ML/LLaDA-8B-Instruct"):
        assert generator(lookup(model).canvas).canvas(load_suite(suite).canvas) == canvas


def test_an_explicit_request_comes_first_and_the_model_last() -> None:
    assert generator(256, {"max_new_tokens": 64}).canvas(512) == 64
    assert generator(256).canvas() == 256
    assert generator(None).canvas() == 256


def test_a_model_trained_for_a_short_canvas_gets_no_longer_one_unasked() -> None:
    """nano knows canvases of 48 tokens: a suite's 512 would measure something nobody trained."""
    nano = Generator(loader.load("nano"), METHOD, {})
    assert (nano.canvas(512), nano.canvas(32), nano.canvas()) == (48, 32, 48)
    assert Generator(loader.load("nano"), METHOD, {"max_new_tokens": 96}).canvas(512) == 96


def test_lm_evals_max_gen_toks_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        catalog, "catalog", lambda: {"tiny": Entry(path=str(GOLDEN / "dream_tiny"), canvas=32)}
    )
    model = DiffusionLM("tiny", "vanilla")
    asked = [
        SimpleNamespace(args=("5", kwargs)).args
        for kwargs in ({"max_gen_toks": 40, "until": []}, {"until": []})
    ]
    assert [model._request(*arguments).canvas for arguments in asked] == [40, 32]
    explicit = DiffusionLM("tiny", "vanilla", max_new_tokens=24)
    assert explicit._request(*asked[0]).canvas == 24
