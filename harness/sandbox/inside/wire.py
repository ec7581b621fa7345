"""Messages between the jail and the outside: length-framed JSON, with Python values as tagged plain data.

Used on both sides of the wall, so it imports the standard library only. Decoding builds exact builtin (or
listed standard-library) types and nothing else: an object with its own `__eq__`, a subclass or a function
cannot cross. Pickle and marshal are avoided because their readers can be attacked by the bytes they read.

Frame: 4 bytes big-endian length, then UTF-8 JSON. Value: a JSON scalar stands for itself, everything else is
`[tag, ...]`.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
_INT_LIMIT = 1 << 63
_SCALARS = (str, int, float, bool, type(None))
_INERT = frozenset((str, float, bool, type(None)))


class WireError(ValueError):
    """A message that is malformed, too long or too deep."""


class Opaque:
    """Stands for a value that cannot cross (a function, a generator, an object). Equal to nothing but
    itself.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind} object that cannot leave the jail>"


def encode(value: Any, depth: int = 0, opaque: Callable[[Any], list[Any]] | None = None) -> Any:
    """Plain JSON data for `value`; subclasses of builtins are reduced to their contents.

    `opaque` may turn a value that has no encoding into a tagged list (default: `["o", type name]`).
    Raises WireError beyond MAX_DEPTH levels, which also catches cycles.
    """
    kind = type(value)
    if kind is int:
        return value if -_INT_LIMIT < value < _INT_LIMIT else ["i", hex(value)]
    if kind in _SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise WireError(f"value nested deeper than {MAX_DEPTH} levels")
    tag = _SEQUENCE_TAGS.get(kind)  # found by exact type: a subclass may lie about its items
    if tag is not None:
        return [tag, *[item if type(item) in _INERT else encode(item, depth + 1, opaque) for item in value]]
    if kind is dict:
        return ["d", *_encode_pairs(value.items(), depth, opaque)]
    return _encode_rare(value, depth, opaque)


def _encode_pairs(pairs: Any, depth: int, opaque: Callable[[Any], list[Any]] | None) -> list[Any]:
    return [encode(item, depth + 1, opaque) for pair in pairs for item in pair]


def _encode_rare(value: Any, depth: int, opaque: Callable[[Any], list[Any]] | None) -> list[Any] | Any:
    kind = type(value)
    scalar = _ENCODE_EXACT.get(kind)
    if scalar is not None:
        return scalar(value)
    if kind in _MAPPING_TAGS:
        return [_MAPPING_TAGS[kind], *_encode_pairs(value.items(), depth, opaque)]
    if isinstance(value, (type({}.keys()), type({}.items()))):
        return ["s", *[encode(item, depth + 1, opaque) for item in value]]
    if type(kind).__module__ == "numpy" or kind.__module__ == "numpy":
        return _encode_numpy(value, depth, opaque)
    for base in (bool, int, float, complex, str, bytes, tuple, list, set, frozenset, dict):
        if isinstance(value, base):
            return encode(_base_copy(value, base), depth, opaque)
    return opaque(value) if opaque else ["o", kind.__name__]


def _base_copy(value: Any, base: type) -> Any:
    if base is int:
        return int.__add__(value, 0)
    if base is float:
        return float.__add__(value, 0.0)
    if base is str:
        return str.__str__(value)[:] if type(str.__str__(value)) is str else "".join(str.__iter__(value))
    if base is dict:
        return dict(dict.items(value))
    if base is complex:
        return complex.__add__(value, 0j)
    return base(base.__iter__(value))


def _encode_numpy(value: Any, depth: int, opaque: Callable[[Any], list[Any]] | None) -> Any:
    plain = value.tolist() if hasattr(value, "tolist") else None
    if plain is None or type(plain).__module__ == "numpy":
        return opaque(value) if opaque else ["o", type(value).__name__]
    return encode(plain, depth + 1, opaque)


_SEQUENCE_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z", collections.deque: "q"}
_MAPPING_TAGS: dict[type, str] = {
    collections.OrderedDict: "O",
    collections.Counter: "K",
    collections.defaultdict: "d",
}
_ENCODE_EXACT: dict[type, Callable[[Any], list[Any]]] = {
    bytes: lambda v: ["b", v.hex()],
    bytearray: lambda v: ["a", v.hex()],
    complex: lambda v: ["c", v.real, v.imag],
    range: lambda v: ["r", *[encode(part) for part in (v.start, v.stop, v.step)]],
    type(...): lambda v: ["e"],
    decimal.Decimal: lambda v: ["D", str(v)],
    fractions.Fraction: lambda v: ["F", encode(v.numerator), encode(v.denominator)],
    datetime.date: lambda v: ["T", "date", v.isoformat()],
    datetime.datetime: lambda v: ["T", "datetime", v.isoformat()],
    datetime.time: lambda v: ["T", "time", v.isoformat()],
    datetime.timedelta: lambda v: ["T", "timedelta", v.days, v.seconds, v.microseconds],
}


def weight(data: Any) -> int:
    """Rough size of encoded data: characters of a top-level string, items of a list (one level deep)."""
    if type(data) is str:
        return len(data) // 8
    return sum(len(item) if type(item) in (list, str) else 1 for item in data) if type(data) is list else 1


def decode(data: Any) -> Any:
    """The Python value for `encode`'s output. Raises WireError for anything else; runs no code named by the
    data.
    """
    if type(data) is not list:
        if type(data) in _SCALARS:
            return data
        raise WireError("a bare JSON object is not a value")
    try:
        return _DECODE[data[0]](data)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise WireError(f"not a value: {type(error).__name__}: {error}") from None


def _items(data: list[Any]) -> list[Any]:
    return [decode(item) if type(item) is list else item for item in data[1:]]


def _pairs(data: list[Any]) -> dict[Any, Any]:
    items = _items(data)
    return dict(zip(items[::2], items[1::2], strict=True))


def _moment(data: list[Any]) -> Any:
    if data[1] == "timedelta":
        return datetime.timedelta(*data[2:5])
    return {"date": datetime.date, "datetime": datetime.datetime, "time": datetime.time}[
        data[1]
    ].fromisoformat(data[2])


_DECODE: dict[str, Callable[[list[Any]], Any]] = {
    "l": _items,
    "t": lambda d: tuple(_items(d)),
    "s": lambda d: set(_items(d)),
    "z": lambda d: frozenset(_items(d)),
    "q": lambda d: collections.deque(_items(d)),
    "d": _pairs,
    "O": lambda d: collections.OrderedDict(_pairs(d)),
    "K": lambda d: collections.Counter(_pairs(d)),
    "i": lambda d: int(d[1], 16),
    "b": lambda d: bytes.fromhex(d[1]),
    "a": lambda d: bytearray.fromhex(d[1]),
    "c": lambda d: complex(d[1], d[2]),
    "r": lambda d: range(decode(d[1]), decode(d[2]), decode(d[3])),
    "e": lambda d: ...,
    "D": lambda d: decimal.Decimal(d[1]),
    "F": lambda d: fractions.Fraction(decode(d[1]), decode(d[2])),
    "T": _moment,
    "o": lambda d: Opaque(str(d[1])[:80]),
    "h": lambda d: Opaque(str(d[2])[:80]),
}


def send(sock: socket.socket, message: Any) -> None:
    """Write one frame of JSON data; OSError when the other side is gone."""
    send_text(sock, to_text(message))


def to_text(message: Any) -> str:
    """Compact JSON text. Characters stay as they are: escapes would join two lone surrogates into one
    character on the way.
    """
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def send_text(sock: socket.socket, text: str) -> None:
    """Write one frame of finished JSON text."""
    body = text.encode("utf-8", "surrogatepass")
    sock.sendall(struct.pack(">I", len(body)) + body)


def receive(sock: socket.socket, limit: int) -> Any:
    """Read one frame, or None at a clean end.

    Raises WireError above `limit` bytes or on bytes that are not JSON, TimeoutError as the socket does.
    """
    head = _exactly(sock, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if length > limit:
        raise WireError(f"message of {length} bytes is over the limit of {limit}")
    body = _exactly(sock, length)
    if body is None:
        raise WireError("message cut short")
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"message is not JSON: {error}") from None


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    chunks: list[bytes] = []
    while count:
        chunk = sock.recv(min(count, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
