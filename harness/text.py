"""Between text and ids: prompts in, useful text out. Counting is in ids, never by tokenising again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import Any

from harness.model.spec import CheckpointError


def encode(tokenizer: Any, text: str, add_bos: bool) -> list[int]:
    """Prompt ids; a beginning-of-text id is put in front if asked for and not there yet."""
    if tokenizer is None:
        raise CheckpointError("this checkpoint has no tokenizer: give prompts as ids")
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = tokenizer.bos_token_id
    if add_bos and bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    return ids


def decode_text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def before_eos(ids: Sequence[int], steps: Sequence[int], eos_ids: Collection[int]) -> list[int]:
    """Leading written ids in front of the first end-of-text."""
    kept: list[int] = []
    for token, step in zip(ids, steps, strict=True):
        if token in eos_ids or step < 0:
            break
        kept.append(token)
    return kept


def cut_at_stops(tokenizer: Any, ids: Sequence[int], stops: Sequence[str]) -> tuple[int, str]:
    """(number of useful ids, text) in front of the earliest stop string.

    The text position of the match is mapped back to ids: an id counts if all of its text lies before it.
    """
    text = decode_text(tokenizer, ids)
    found = [text.find(stop) for stop in stops if stop]
    cut = min((index for index in found if index >= 0), default=None)
    if cut is None:
        return len(ids), text
    lengths = range(1, len(ids) + 1)
    useful = bisect_right(lengths, cut, key=lambda n: len(decode_text(tokenizer, ids[:n])))
    return useful, text[:cut]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One printable string per id, for traces."""
    return [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
