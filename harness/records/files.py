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
    """Replace a file so that a kill or a full disk (OSError) leaves either the old or the new one, and nothing beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            _write_all(file.fileno(), text.encode())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    """Write everything and force it to the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


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
        self._file: IO[bytes] = path.open("a+b", buffering=0)
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def append(self, line: bytes) -> None:
        """Write one line (without its line feed). OSError: the line is not there, not even a part of it."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            _write_all(self._file.fileno(), line + b"\n")
        except OSError:
            self._file.truncate(end)
            raise

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
