"""Between text and ids: prompts in, useful text out. Counting is in ids, never by tokenising again."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from typing import Any

from harness.errors import UserError
from harness.model.rendering import RenderingError, rendered
from harness.model.spec import CheckpointError
from harness.records.outside import brief

_MARKER = re.compile(r"\[(R|A)(?::(\d+))?\]")
ANSWER = "[A]"
"""What stands in front of the answer in the text of a canvas that its suite divided into reasoning and
answer.
"""


class PromptTextError(UserError, ValueError):
    """A prompt that is no text."""


class MarkerError(UserError, ValueError):
    """A prompt whose [R] and [A] markers do not say where the two blocks go."""


def encode(tokenizer: Any, text: str, add_bos: bool) -> list[int]:
    """Prompt ids; a beginning-of-text id is put in front if asked for and not there yet."""
    if tokenizer is None:
        raise CheckpointError("this checkpoint has no tokenizer: give prompts as ids")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptTextError(
            f"a prompt holds half a character ({brief(text[error.start])}), give it in UTF-8"
        ) from None
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = tokenizer.bos_token_id
    if add_bos and bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    return ids


def chat_text(tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Messages ({"role", "content"}) as the model's chat template writes them; CheckpointError if it has
    none.

    Without a generation prompt the last message is left open, for an answer whose beginning is given.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise CheckpointError(
            "--apply_chat_template: this checkpoint has no chat template; leave the flag out for a base model"
        )
    try:
        return rendered(
            tokenizer,
            list(messages),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
    except RenderingError as fault:
        whose = getattr(tokenizer, "name_or_path", "") or "this checkpoint"
        raise CheckpointError(
            f"chat_template of {whose} cannot be used ({fault}): mend it in its "
            "tokenizer_config.json or chat_template.jinja, or leave --apply_chat_template out"
        ) from None


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

    The text position of the match is mapped back to ids: an id counts if all of its text lies before it. Stop
    strings with special tokens in them are looked for in the text that shows those.
    """
    marks = [stop for stop in stops if _has_special(tokenizer, stop)]
    plain = [stop for stop in stops if stop not in marks]
    found = _cut(tokenizer, ids, plain, decode_text)
    return min(found, _cut(tokenizer, ids, marks, _full_text)) if marks else found


class StopStrings:
    """A suite's stop strings, looked for while ids are being written.

    ``reach``: no stop string spans more ids than this, since every id of plain text has at least one byte.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        wanted = [stop for stop in stops if stop]
        marks = [stop for stop in wanted if _has_special(tokenizer, stop)]
        plain = [stop for stop in wanted if stop not in marks]
        self._looks = [
            (found, shown) for found, shown in ((plain, decode_text), (marks, _full_text)) if found
        ]
        self.reach = max((len(stop.encode()) for stop in wanted), default=0)

    def within(self, ids: Sequence[int]) -> bool:
        """Whether the text of ``ids`` holds a stop string."""
        return any(
            stop in text
            for stops, shown in self._looks
            for text in [shown(self._tokenizer, ids)]
            for stop in stops
        )

    def end(self, ids: Sequence[int]) -> int | None:
        """The least number of leading ids whose text holds a stop string, if the text of all of them does."""
        if not self.within(ids):
            return None
        return 1 + bisect_left(range(1, len(ids) + 1), True, key=lambda count: self.within(ids[:count]))


def _full_text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _has_special(tokenizer: Any, stop: str) -> bool:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return any(token.special and token.content in stop for token in added.values())


def _cut(
    tokenizer: Any, ids: Sequence[int], stops: Sequence[str], shown: Callable[[Any, Sequence[int]], str]
) -> tuple[int, str]:
    text = shown(tokenizer, ids)
    found = [text.find(stop) for stop in stops if stop]
    cut = min((index for index in found if index >= 0), default=None)
    if cut is None:
        return len(ids), decode_text(tokenizer, ids)
    useful = bisect_right(range(1, len(ids) + 1), cut, key=lambda n: len(shown(tokenizer, ids[:n])))
    if shown is decode_text:
        return useful, text[:cut]
    # The part of a piece that lies before the stop string stays in the text, though its id does not count.
    return useful, decode_text(tokenizer, ids[:useful]) + text[len(shown(tokenizer, ids[:useful])) : cut]


def answer_of_blocks(
    tokenizer: Any,
    ids: Sequence[int],
    steps: Sequence[int],
    blocks: Sequence[tuple[int, int]],
    eos_ids: Collection[int],
    stops: Sequence[str],
    marked: bool = False,
) -> tuple[list[int], str | None]:
    """(number of useful ids of each block, text) of an output whose ``blocks`` [start, stop) are texts of
    their own.

    Each block counts up to its first end-of-text, hole or stop string; the texts are joined by ANSWER if
    ``marked``, else by a line break where neither side has one. Text is None without a tokenizer.
    """
    useful: list[int] = []
    text = ""
    for start, stop in blocks:
        kept = before_eos(ids[start:stop], steps[start:stop], eos_ids)
        count, part = cut_at_stops(tokenizer, kept, stops) if tokenizer is not None else (len(kept), "")
        seam = "\n" if text and part and not text.endswith("\n") and not part.startswith("\n") else ""
        text += (ANSWER if marked and useful else seam) + part
        useful.append(count)
    return useful, text if tokenizer is not None else None


def behind_marker(text: str) -> str:
    """The answer in a text whose blocks ANSWER keeps apart; a text without it is all answer."""
    return text.rpartition(ANSWER)[2]


def split_markers(prompt: str) -> tuple[str, dict[str, int]]:
    """A prompt ending in ``[R] [A]`` (or with lengths in tokens, ``[R:48] [A:16]``): (text before it, given
    lengths).

    Without any marker the prompt comes back unchanged. Raises MarkerError unless exactly R, then A, close the
    prompt.
    """
    found = list(_MARKER.finditer(prompt))
    if not found:
        return prompt, {}
    names = [match[1] for match in found]
    if names != ["R", "A"]:
        raise MarkerError(
            f"prompt has the markers {' '.join(match[0] for match in found)}: end it with one [R] and then "
            "one [A]"
        )
    between, behind = prompt[found[0].end() : found[1].start()], prompt[found[1].end() :]
    if between.strip() or behind.strip():
        raise MarkerError(
            f"text {(between.strip() or behind.strip())!r} stands behind [R]: put it before the markers, "
            "which end the prompt"
        )
    lengths = {match[1]: int(match[2]) for match in found if match[2]}
    if empty := [name for name, length in lengths.items() if length == 0]:
        raise MarkerError(f"[{empty[0]}:0] is an empty block: give it at least one token")
    return prompt[: found[0].start()].rstrip(" "), lengths


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One printable string per id, for traces."""
    return [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
