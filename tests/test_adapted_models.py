"""Models that are a shipped model with an adapter: one name for weights, hash and companions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import catalog, loader
from harness.catalog import Entry, adapter_location, location, own_adapter
from harness.model.load import Adapter, load_transformer, weights_hash
from tests.conftest import GOLDEN
from tests.helpers import CPU


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """A catalogue of the golden checkpoint alone and of the golden checkpoint with its adapter."""
    entries = {
        "plain": Entry(path=str(GOLDEN / "dream_tiny")),
        "adapted": Entry(path=str(GOLDEN / "dream_tiny"), adapter=str(GOLDEN / "dream_lora_tiny"), canvas=24),
    }
    monkeypatch.setattr(catalog, "catalog", lambda: entries)
    return "adapted"


def test_the_adapter_is_merged(named: str) -> None:
    want = load_transformer(Path(location("plain")), torch.float32, CPU)
    Adapter(GOLDEN / "dream_lora_tiny").merge(want)
    found = loader.transformer_of(named, torch.float32, CPU)
    ids = torch.arange(9).unsqueeze(0)
    assert torch.equal(found(ids), want(ids))
    assert not torch.equal(found(ids), loader.transformer_of("plain", torch.float32, CPU)(ids))


def test_a_name_is_a_model_and_an_adapter(named: str) -> None:
    assert location(named) == location("plain")
    assert adapter_location(named) == own_adapter(named) == str(GOLDEN / "dream_lora_tiny")
    assert adapter_location("plain") == location("plain")
    model, apart = loader.load(named), loader.load("plain", adapter=named)
    ids = torch.arange(9).unsqueeze(0)
    assert torch.equal(model.backbone.score(ids), apart.backbone.score(ids))
    assert (model.adapter, model.canvas, apart.adapter) == (None, 24, named)


def test_the_hash_covers_both(named: str) -> None:
    base, own = weights_hash(GOLDEN / "dream_tiny"), weights_hash(GOLDEN / "dream_lora_tiny", "adapter_model")
    assert loader.model_hash(named) == base[:8] + own[:8]
    assert loader.model_hash("plain") == base
