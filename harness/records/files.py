"""Files that survive a kill: whole files replaced at once, JSON lines with a torn end (plain or packed),
pages with a generated part.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import UserError

MOST_UNPACKED = 1 << 32
"""Bytes of a packed file once unpacked: a hundred times the largest run."""


class PackedError(UserError, ValueError):
    """A packed file that cannot be unpacked."""


def digest(value: Any) -> str:
    """sha256 of canonical JSON, 16 hex digits."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()
    ).hexdigest()[:16]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file so that a kill or a full disk (OSError) leaves either the old or the new one, and
    nothing beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            _write_all(file.fileno(), content.encode() if isinstance(content, str) else content)
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


def packed(path: Path) -> Path:
    """Where the packed form of a file of lines lies: ``samples.jsonl.xz``."""
    return path.with_name(f"{path.name}.xz")


def content_of(path: Path) -> bytes:
    """Content of a file of lines, plain or else packed. FileNotFoundError if neither is there, PackedError
    for a damaged one.

    Where both are there, packing or unpacking was cut short; the plain one is whole and may hold more.
    """
    if path.exists() or not packed(path).exists():
        return path.read_bytes()
    try:
        found = _unpacked(packed(path).read_bytes())
    except (lzma.LZMAError, EOFError) as error:
        raise PackedError(f"{packed(path)} is damaged ({error})") from None
    if len(found) > MOST_UNPACKED:
        raise PackedError(f"{packed(path)} holds more than {MOST_UNPACKED:,} bytes, as no run does")
    return found


def _unpacked(data: bytes) -> bytes:
    """All streams of an xz file, up to a byte more than is allowed: a small file may hold zeros for ever."""
    found = b""
    while data and len(found) <= MOST_UNPACKED:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        found += stream.decompress(data, MOST_UNPACKED + 1 - len(found))
        if not stream.eof and len(found) <= MOST_UNPACKED:
            raise EOFError("it ends too early")
        data = stream.unused_data.lstrip(b"\0")
    return found


def pack(path: Path) -> None:
    """Replace a file of lines by its packed form, without loss; the same lines give the same bytes (of one
    version of liblzma).
    """
    content = path.read_bytes()
    write_atomic(packed(path), lzma.compress(content, lzma.FORMAT_XZ, preset=6 | lzma.PRESET_EXTREME))
    path.unlink()


def unpack(path: Path) -> None:
    """Replace a packed file of lines by its plain form; nothing happens where none is packed."""
    if packed(path).exists():
        if not path.exists():
            write_atomic(path, content_of(path))
        packed(path).unlink()


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of every finished line that is not empty; nothing for a file that is not there.

    Lines end at a line feed and nowhere else: JSON may hold any other separator inside a string. What a kill
    cut short at the end is no line.
    """
    try:
        *lines, _ = content_of(path).split(b"\n")
    except FileNotFoundError:
        return
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


class LineFile:
    """Lines appended to a file, each forced to the disk before the next; at opening it is unpacked and a torn
    last line cut off.
    """

    def __init__(self, path: Path) -> None:
        unpack(path)
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
    """Text up to and with marker ``begin``, and from ``end`` on. ``error`` naming ``flag`` for no page or not
    exactly one pair.
    """
    try:
        text = page.read_text()
    except OSError as reason:
        raise error(f"cannot read {flag} {page}: {reason.strerror}") from None
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise error(
            f"{flag} {page} needs one line {begin} and, below it, one line {end}; what is generated goes "
            "between them"
        )
    return before + begin, end + after
