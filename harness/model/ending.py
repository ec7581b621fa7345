"""Which tokens of a tokenizer end an answer, read from its files without running any of its code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.model.tokenizer_files import TokenizerFiles

END_TOKENS = (
    "<|endoftext|>", "<|im_end|>", "<|dlm_pad|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>",
    "<|role_end|>", "<|end|>", "<|return|>", "<|end_of_turn|>", "<end_of_turn>", "</s>", "<eos>",
)  # fmt: skip
"""Special tokens that end a text or a turn in every vocabulary that has them."""


def end_ids(folder: Path, pad_id: int | None = None, never: Sequence[int | None] = ()) -> tuple[int, ...]:
    """Ids that end an answer by the tokenizer of ``folder``: its end-of-text, its end-of-turn tokens, and
    padding.

    Padding (the tokenizer's, or ``pad_id`` of the model's configuration) counts only where it is a special
    token, and so can be no text, and is neither beginning of text nor mask. ``never``: ids that are no end
    whatever they are called (mask and beginning). Empty without a tokenizer.
    """
    files = TokenizerFiles(folder)
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
    files = TokenizerFiles(folder)
    found = {text: files.id_of(text) for text in texts}
    if missing := [text for text, token in found.items() if token is None]:
        raise KeyError(missing[0])
    return tuple(token for token in found.values() if token is not None)
