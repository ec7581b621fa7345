"""Files that survive a kill: whole files replaced at once, JSON lines with a torn end, pages with a generated part."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import UserError


def digest(value: Any) -> str:
    """sha256 of canonical JSON, 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()[:16]


def write_atomic(path: Path, text: str) -> None:
    """Replace a file so that a kill leaves either the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every finished line that is not empty; nothing for a file that is not there.

    Lines end at a line feed and nowhere else: JSON may hold any other separator inside a string. What a kill cut short at the end is
    no line.
    """
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


class LineFile:
    """Lines appended to a file, each forced to the disk before the next; a torn last line is cut off at opening."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)

    def append(self, line: bytes) -> None:
        """Write one line (without its line feed)."""
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


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
