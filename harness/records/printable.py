"""Text of unknown origin made fit to be shown: nothing in it moves a cursor, ends a line or is markup."""

from __future__ import annotations

import os
import re
import sys
import unicodedata

_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control and format characters (also those that turn the direction of writing), halves of characters, and
separators of lines and paragraphs.
"""
_MARKUP = re.compile(r"[`*<|$]|\](?=\()|\\(?=[!-/:-@\[-`{-~])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|~(?=~)")
"""What GitHub's Markdown takes for markup inside a line; an underscore within a word is none."""
_IN_LINK = re.compile(rf"{_MARKUP.pattern}|[\[\]]")
_PLAIN = re.compile(r"[ -~]*")


def printable(text: object, keep: str = "") -> str:
    """``text`` with every character that is no visible one written as an escape (``\\x1b``, ``\\n``), except
    those to ``keep``.
    """
    text = str(text)
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _UNSHOWN
        else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def in_console(text: object, keep: str = "") -> str:
    """``text`` for a console of rich that reads its square brackets as styles."""
    from rich.markup import escape  # not to be had in a decoder's jail, which imports the rest of this module

    return escape(printable(text, keep))


def in_markdown(text: object, link: bool = False) -> str:
    """``text`` as plain words of a Markdown page: in one line, no markup, no tag, no new column.

    ``link``: for the words of a link, which any square bracket might end.
    """
    return (_IN_LINK if link else _MARKUP).sub(r"\\\g<0>", printable(text))


def as_code(text: object, cell: bool = False) -> str:
    """``text`` as a code span; in a ``cell`` of a table a pipe would end the column even there."""
    shown = printable(text)
    shown = shown.replace("|", "\\|") if cell else shown
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def gigabytes(size: float) -> str:
    """So many bytes as text, such as 1.25 GB."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"


def columns(needed: int) -> int | None:
    """Width of a table on standard output: what it needs where that is a file, None (the terminal's own) on a
    terminal and where COLUMNS says.
    """
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else needed
