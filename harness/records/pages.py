"""Markdown pages with a generated part between two markers."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError


def around(page: Path, flag: str, begin: str, end: str, error: type[UserError]) -> tuple[str, str]:
    """Text up to and with marker ``begin``, and from ``end`` on. ``error`` naming ``flag`` for no page or not exactly one pair."""
    try:
        text = page.read_text()
    except OSError as reason:
        raise error(f"cannot read {flag} {page}: {reason.strerror}") from None
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise error(f"{flag} {page} needs one line {begin} and, below it, one line {end}; what is generated goes between them")
    return before + begin, end + after
