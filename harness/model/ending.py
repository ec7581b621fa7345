"""Which tokens of a tokenizer end an answer, read from its files without running any of its code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

END_TOKENS = (
    "<|endoftext|>", "<|im_end|>", "<|dlm_pad|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>",
    "<|role_end|>", "<|end|>", "<|return|>", "<|end_of_turn|>", "<end_of_turn>", "</s>", "<eos>",
)  # fmt: skip
"""Special tokens that end a text or a turn in every vocabulary that has them."""


class _Files:
    """Special tokens by text, and the roles that the tokenizer's configuration gives them."""

    def __init__(self, folder: Path) -> None:
        self.config, whole = _read(folder / "tokenizer_config.json"), _read(folder / "tokenizer.json")
        self.special: dict[str, int] = dict(_read(folder / "added_tokens.json"))
        for token, entry in self.config.get("added_tokens_decoder", {}).items():
            self._add(entry, int(token))
        for entry in whole.get("added_tokens", []):
            self._add(entry, entry["id"])
        vocabulary = whole.get("model", {}).get("vocab")
        self.words: dict[str, int] = vocabulary if isinstance(vocabulary, dict) else {}

    def _add(self, entry: dict[str, Any], token: int) -> None:
        if entry.get("special", True):
            self.special[entry["content"]] = token

    def role(self, name: str) -> str | None:
        """The text of the token with a role such as ``eos_token``."""
        value = self.config.get(name)
        return value["content"] if isinstance(value, dict) else value

    def id_of(self, text: str | None) -> int | None:
        return None if text is None else self.special.get(text, self.words.get(text))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def end_ids(folder: Path, pad_id: int | None = None, never: Sequence[int | None] = ()) -> tuple[int, ...]:
    """Ids that end an answer by the tokenizer of ``folder``: its end-of-text, its end-of-turn tokens, and
    padding.

    Padding (the tokenizer's, or ``pad_id`` of the model's configuration) counts only where it is a special
    token, and so can be no text, and is neither beginning of text nor mask. ``never``: ids that are no end
    whatever they are called (mask and beginning). Empty without a tokenizer.
    """
    files = _Files(folder)
    barred = {*never, *(files.id_of(files.role(name)) for name in ("bos_token", "mask_token", "unk_token"))}
    eos = files.id_of(files.role("eos_token"))
    padding = {files.special.get(files.role("pad_token") or ""), pad_id} & set(files.special.values())
    named = [files.special[text] for text in END_TOKENS if text in files.special]
    found = dict.fromkeys(
        [
            eos,
            *(
                token
                for token in [*named, *sorted(filter(None, padding))]
                if token not in barred or token == eos
            ),
        ]
    )
    return tuple(token for token in found if token is not None)


def ids_of(folder: Path, texts: Sequence[str]) -> tuple[int, ...]:
    """Ids of tokens named by their text; KeyError for one that the tokenizer does not have."""
    files = _Files(folder)
    found = {text: files.id_of(text) for text in texts}
    if missing := [text for text, token in found.items() if token is None]:
        raise KeyError(missing[0])
    return tuple(token for token in found.values() if token is not None)
