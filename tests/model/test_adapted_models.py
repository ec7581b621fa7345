"""An adapter's name where a model is asked for: its base with the adapter, one name for weights, hash and
settings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from harness.engine import loader
from harness.model import catalog
from harness.model.adapter import Adapter
from harness.model.catalog import Entry, base_of, folder_of, location
from harness.model.load import load_transformer, weights_hash
from harness.model.spec import CheckpointError
from tests.conftest import GOLDEN
from tests.helpers import CPU


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A catalogue of the golden checkpoint and of an adapter whose base it is."""
    shutil.copytree(GOLDEN / "dream_lora_tiny", tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "plain"}))
    entries = {
        "plain": Entry(path=str(GOLDEN / "dream_tiny")),
        "adapted": Entry(path=str(tmp_path / "adapter"), canvas=24),
    }
    monkeypatch.setattr(catalog, "catalog", lambda: entries)
    return "adapted"


IDS = torch.arange(9).unsqueeze(0)


def test_the_adapter_is_merged(named: str) -> None:
    want = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    Adapter(GOLDEN / "dream_lora_tiny").merge(want)
    found = loader.transformer_of(named, torch.float32, CPU)
    assert torch.equal(found(IDS), want(IDS))
    assert not torch.equal(found(IDS), loader.transformer_of("plain", torch.float32, CPU)(IDS))


def test_a_name_is_a_model_and_an_adapter(named: str) -> None:
    assert (base_of(named), location(named), location("plain")) == (
        "plain",
        location("plain"),
        str(GOLDEN / "dream_tiny"),
    )
    model, apart, unlisted = (
        loader.load(named),
        loader.load("plain", adapter=named),
        loader.load(folder_of(named)),
    )
    assert torch.equal(model.backbone.score(IDS), apart.backbone.score(IDS))
    assert torch.equal(model.backbone.score(IDS), unlisted.backbone.score(IDS))
    assert (model.adapter, model.canvas, apart.adapter) == (None, 24, named)


def test_a_model_that_only_a_clone_has_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "catalog", lambda: {"nano-big": Entry(path="nano-big", canvas=24)})
    with pytest.raises(
        CheckpointError,
        match=r"nano-big is not in the installed package.*: copy methods/models/nano-big of the "
        r"repository to /",
    ):
        loader.load("nano-big")
    with pytest.raises(CheckpointError, match=r"install from a clone"):
        loader.load("plain", adapter="nano-big")


def test_another_adapter_goes_on_top(named: str) -> None:
    want = load_transformer(GOLDEN / "dream_tiny", torch.float32, CPU)
    for _ in range(2):
        Adapter(GOLDEN / "dream_lora_tiny").merge(want)
    assert torch.equal(loader.load(named, adapter=named).backbone.score(IDS), want(IDS))


def test_the_hash_covers_both(named: str) -> None:
    base, own = weights_hash(GOLDEN / "dream_tiny"), weights_hash(GOLDEN / "dream_lora_tiny", "adapter_model")
    assert loader.model_hash(named) == base[:8] + own[:8]
    assert loader.model_hash("plain") == base
