"""Files that no honest program wrote, for hypothesis: valid ones with bytes, values and lines changed, and
bytes at random.
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

from harness.errors import UserError

LONGEST = 20
"""Seconds of processor time that reading one small file may take; ten times as many on the clock."""

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**9, 2**63, 10**400, -(10**30), 0.5, 1e308, float("inf"), float("nan"),
    "", "x", "\ud800", "\x1b[2J\n", "../../x", "/dev/zero", "a\0b", [], {}, [None], [[]], {"a": 1}, [1, "a"],
    "9" * 50,
]  # fmt: skip

YAML_TAILS = [
    "!!python/object/apply:os.system ['true']", "&a [*a]", "!!bool x", "!!timestamp x", "!!binary é",
    "? [a]\n: b", "<<: 5",
    "- \t", "0o8", "1:2:3", "2001-99-99", "{[a]: b}", "!!int x", "!!float x", "&a a", "*b",
    "%TAG", "---\n---", "'", "|",
]  # fmt: skip


@contextmanager
def refused_or_read() -> Iterator[None]:
    """The file is read, or refused by an error of ours in one line, before long; anything else is a fault."""

    def late(*_: Any) -> None:
        raise AssertionError(f"no answer within {LONGEST} s")

    before = [signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_REAL, 10 * LONGEST)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    except UserError as error:
        text = str(error)
        if "\n" in text or len(text) > 1500:
            raise AssertionError(f"no short line: {text[:300]!r}") from error
    finally:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value of a JSON value, itself first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> Any:
    """A JSON value with one to three of its values replaced, removed, renamed or moved."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(value)))
        new = draw(
            st.one_of(st.sampled_from(ODD), st.just(_at(value, draw(st.sampled_from(_places(value))))))
        )
        if not path:
            value = copy.deepcopy(new) if draw(st.integers(0, 9)) == 0 else value
            continue
        parent, key = _at(value, path[:-1]), path[-1]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "x", "\ud800", "0", str(key).upper()]))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(new)
    return value


@st.composite
def cut(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes with stretches removed, doubled or overwritten."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["remove", "double", "write", "end"]))
        if kind == "remove":
            del data[at:end]
        elif kind == "double":
            data[at:at] = data[at:end]
        elif kind == "write":
            data[at:end] = draw(st.binary(max_size=40))
        else:
            del data[at:]
    return bytes(data)


def json_bytes(valid: Any) -> st.SearchStrategy[bytes]:
    """A JSON file: a valid one with values or bytes changed, or nonsense."""
    text = json.dumps(valid).encode()
    return st.one_of(
        changed(valid).map(lambda value: json.dumps(value).encode()),
        cut(text),
        st.binary(max_size=200),
        st.sampled_from([b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"7" * 9999, b"null"]),
    )


def line_bytes(lines: list[Any]) -> st.SearchStrategy[bytes]:
    """A file of JSON lines, one of them changed, or the whole of it."""
    texts = [json.dumps(line).encode() for line in lines]
    whole = b"\n".join(texts) + b"\n"

    def with_line(pair: tuple[int, bytes]) -> bytes:
        return b"\n".join([*texts[: pair[0]], pair[1], *texts[pair[0] + 1 :]]) + b"\n"

    places = st.integers(0, len(lines) - 1)
    return st.one_of(
        places.flatmap(lambda k: json_bytes(lines[k]).map(lambda one: with_line((k, one)))), cut(whole)
    )


def yaml_bytes(valid: Any, text: bytes | None = None) -> st.SearchStrategy[bytes]:
    """A YAML file: JSON is YAML, so values are changed there; ``text``: the file as people write it."""
    tails = st.sampled_from(YAML_TAILS).map(lambda tail: f"a: {tail}\n".encode())
    written = [cut(text), tails.map(lambda tail: text + b"\n" + tail)] if text is not None else []
    return st.one_of(json_bytes(valid), tails, *written)


Reader = Callable[[bytes], object]
"""Writes bytes where they belong and reads them."""
