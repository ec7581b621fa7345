"""What a tokenizer's JSON files say of special tokens, read without running any of its code."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness.model.spec import FETCH, CheckpointError
from harness.records.outside import read_json, reason

MOST_IDS = 1 << 24
"""Far above the largest vocabularies (about 260,000)."""


class _Token(BaseModel):
    content: str
    special: bool = True
    id: int = -1


class _Config(BaseModel):
    """The part of ``tokenizer_config.json`` that is read; a role is a token's text, or an object
    that holds it.
    """

    added_tokens_decoder: dict[int, _Token] | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    pad_token: str | _Token | None = None
    unk_token: str | _Token | None = None
    mask_token: str | _Token | None = None
    add_bos_token: bool | None = None


class _Model(BaseModel):
    vocab: dict[str, int] | list[Any] | None = None
    merges: list[str | list[str]] | None = None


class _Whole(BaseModel):
    """The part of ``tokenizer.json`` that is read."""

    added_tokens: list[_Token] | None = None
    model: _Model | None = None


def read_part(path: Path, kind: Any) -> Any:
    """The file as ``kind``, empty where there is none. CheckpointError names the key that is wrong."""
    raw = read_json(path, CheckpointError, advice=FETCH) if path.exists() else {}
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {reason(error)}: {FETCH}") from None


class TokenizerFiles:
    """The files of one folder, each read when something of it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> _Config:
        return read_part(self.folder / "tokenizer_config.json", _Config)

    @cached_property
    def _whole(self) -> _Whole:
        return read_part(self.folder / "tokenizer.json", _Whole)

    @cached_property
    def _apart(self) -> dict[str, int]:
        return read_part(self.folder / "added_tokens.json", dict[str, int])

    @property
    def _decoder(self) -> dict[int, _Token]:
        return self.config.added_tokens_decoder or {}

    @cached_property
    def added(self) -> dict[str, int]:
        """Ids of what ``tokenizer_config.json`` and ``added_tokens.json`` add, by text."""
        return {entry.content: token for token, entry in self._decoder.items()} | self._apart

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of special tokens by text, from all files."""
        decoded = {entry.content: token for token, entry in self._decoder.items() if entry.special}
        whole = {entry.content: entry.id for entry in self._whole.added_tokens or [] if entry.special}
        return self._apart | decoded | whole

    @property
    def appended(self) -> set[str]:
        """Texts that ``tokenizer.json`` adds to its vocabulary, special or not."""
        return {entry.content for entry in self._whole.added_tokens or []}

    @property
    def words(self) -> dict[str, int]:
        """Ordinary words of ``tokenizer.json`` with their ids, where it is a table of such."""
        vocabulary = self.vocabulary
        return vocabulary if isinstance(vocabulary, dict) else {}

    @property
    def vocabulary(self) -> dict[str, int] | list[Any]:
        return (self._whole.model.vocab if self._whole.model else None) or {}

    @property
    def merges(self) -> list[str]:
        merges = (self._whole.model.merges if self._whole.model else None) or []
        return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]

    def check_ids(self) -> None:
        """CheckpointError for an id that no vocabulary reaches: the tokenizer's library would list every id
        below it that has no word, gigabytes of them.
        """
        listed = self.vocabulary if isinstance(self.vocabulary, list) else ()
        apart: dict[str, int] = read_part(self.folder / "vocab.json", dict[str, int])
        found = (self.words, self.added, self.special, apart)
        ids = [len(listed), *(number for words in found for number in words.values())]
        if (largest := max(ids)) > MOST_IDS:
            raise CheckpointError(f"the tokenizer in {self.folder} has a token with id {largest}: {FETCH}")

    def role(self, name: str) -> str | None:
        """The text of the token with a role such as ``eos_token``."""
        told = getattr(self.config, name)
        return told.content if isinstance(told, _Token) else told

    def id_of(self, text: str | None) -> int | None:
        return None if text is None else self.special.get(text, self.words.get(text))
