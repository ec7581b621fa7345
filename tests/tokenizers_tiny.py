"""Tiny checkpoints with a tokenizer: one word per id, special tokens where real models have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from tests.conftest import GOLDEN

EOS, IM_END, PAD = 253, 250, 249
DIFFUCODER = {EOS: "<|endoftext|>", 251: "<|im_start|>", IM_END: "<|im_end|>", PAD: "<|dlm_pad|>"}
"""Special tokens as DiffuCoder has them, on the ids of the golden Dream checkpoint."""


def with_tokenizer(folder: Path, special: Mapping[int, str], base: str = "dream_tiny", **config: Any) -> Path:
    """A copy of a golden checkpoint whose ids are single letters but for ``special``; ``config``:
    tokenizer_config.
    """
    shutil.copytree(GOLDEN / base, folder, dirs_exist_ok=True)
    letters = {chr(0x100 + token): token for token in range(256) if token not in special}
    vocabulary = letters | {text: token for token, text in special.items()}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=chr(0x100)))
    tokenizer.pre_tokenizer = Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    return folder


def letters(*ids: int) -> str:
    """The text of plain ids."""
    return "".join(chr(0x100 + token) for token in ids)
