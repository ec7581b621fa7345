"""A row of another tokenizer is in no table with the others; the same words in other files are the same
tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.model import catalog
from harness.model.catalog import Entry
from harness.model.tokenizer import vocabulary_hash
from harness.records.schema import Plan
from harness.runs.plan import comparability
from tests.tokenizers_tiny import DIFFUCODER, EOS, with_tokenizer


def plan(checkpoint: str) -> Plan:
    return Plan(
        model="base", checkpoint=checkpoint, weights_hash="w", method="ar", method_source="built-in",
        settings={}, suite="s", prompts_hash="p", max_new_tokens=8, device="cpu", device_name="cpu",
        dtype="float32", attention="sdpa",
    )  # fmt: skip


def test_another_tokenizer_is_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = with_tokenizer(tmp_path / "base", {EOS: "<|endoftext|>"})
    other = with_tokenizer(tmp_path / "other", {EOS: "<|endoftext|>"})
    changed = json.loads((other / "tokenizer.json").read_text())
    words = changed["model"]["vocab"]
    first, second = list(words)[:2]
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(changed))
    entries = {"base": Entry(path=str(base)), "twin": Entry(path=str(base)), "other": Entry(path=str(other))}
    monkeypatch.setattr(catalog, "catalog", lambda: entries)
    assert comparability(plan("base")) == comparability(plan("twin"))
    assert comparability(plan("base")) != comparability(plan("other"))


def test_special_tokens_and_files_do_not_matter(tmp_path: Path) -> None:
    words, merges = {"a": 0, "b": 1, "ab": 2}, [["a", "b"]]
    for name in ("fast", "slow", "special"):
        (tmp_path / name).mkdir()
    body = {"model": {"vocab": words, "merges": merges}, "added_tokens": []}
    (tmp_path / "fast" / "tokenizer.json").write_text(json.dumps(body))
    body["added_tokens"] = [{"id": 3, "content": DIFFUCODER[EOS], "special": True}]  # pyright: ignore[reportArgumentType]
    (tmp_path / "special" / "tokenizer.json").write_text(json.dumps(body))
    (tmp_path / "slow" / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "slow" / "merges.txt").write_text("#version: 0.2\na b\n")
    hashes = {vocabulary_hash(tmp_path / name) for name in ("fast", "slow", "special")}
    assert len(hashes) == 1
    assert None not in hashes
    assert vocabulary_hash(tmp_path) is None
