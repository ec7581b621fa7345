"""Tokenizers of real checkpoints, loaded without running published remote code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.model.spec import FETCH, CheckpointError
from harness.model.tokenizer_files import TokenizerFiles, read_part
from harness.records.outside import read_text, reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "tokenizer_config.json")


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None if it has none (ids in, ids out).

    Dream ships a custom Python class around Qwen2's byte-level BPE; the same files load with the stock class.
    The automatic class is the last resort, because it asks to run whatever code config.json points to.
    """
    if not has_tokenizer(folder):
        return None
    TokenizerFiles(folder).check_ids()
    try:
        return _loaded(folder)
    except (KeyboardInterrupt, SystemExit, CheckpointError):
        raise
    except BaseException as fault:  # panics of the Rust library are no Exception
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({reason(fault)}): {FETCH}"
        ) from None


def _loaded(folder: Path) -> PreTrainedTokenizerBase:
    # Each class where it is needed: the automatic one alone takes seconds to import.
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    if (folder / "merges.txt").exists():
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer.from_pretrained(str(folder))
    from transformers import AutoTokenizer

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


def vocabulary_hash(folder: Path) -> str | None:
    """sha256 over the ordinary words and merges, 16 hex digits: equal where text becomes the same ids; None
    without tokenizer.

    Special tokens are left out, and it does not matter which files hold the rest: Dream's tokenizer is
    Qwen2.5's with a mask added.
    """
    if not has_tokenizer(folder):
        return None
    digest, whole = hashlib.sha256(), folder / "tokenizer.json"
    if whole.exists():
        files = TokenizerFiles(folder)
        special, words, merges = files.appended, files.vocabulary, files.merges
    elif (folder / "vocab.json").exists():
        special, words = set(), read_part(folder / "vocab.json", dict[str, int])
        lines = _merges(folder / "merges.txt")
        merges = [
            line
            for number, line in enumerate(lines)
            if line and not (number == 0 and line.startswith("#version"))
        ]
    else:
        return hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()[:16]
    if isinstance(words, dict):
        words = sorted((token, text) for text, token in words.items() if text not in special)
    digest.update(json.dumps([words, merges]).encode())
    return digest.hexdigest()[:16]


def _merges(path: Path) -> list[str]:
    return read_text(path, CheckpointError, FETCH).splitlines() if path.exists() else []
