"""Tokenizers of real checkpoints, loaded without running published remote code."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "tokenizer_config.json")


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None if it has none (ids in, ids out).

    Dream ships a custom Python class around Qwen2's byte-level BPE; the same files load with the stock class. The
    automatic class is the last resort, because it asks to run whatever code config.json points to.
    """
    if not has_tokenizer(folder):
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    if (folder / "merges.txt").exists():
        return Qwen2Tokenizer.from_pretrained(str(folder))
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def tokenizer_hash(folder: Path) -> str | None:
    """sha256 over the tokenizer files, 16 hex digits; None without tokenizer."""
    if not has_tokenizer(folder):
        return None
    digest = hashlib.sha256()
    for name in _FILES:
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
