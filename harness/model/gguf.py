"""GGUF files (version 3): header, metadata and dequantised tensors, with nothing but numpy.

The layout is that of ggml's specification: little-endian, strings and arrays with 64-bit lengths, a directory
of tensors, then their data at multiples of ``general.alignment``. Shapes are stored fastest dimension first.
Types read: F32, F16, Q4_1, Q8_0.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.model.spec import CheckpointError
from harness.records.outside import brief, reason
from harness.records.printable import printable

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ALIGNED = 1 << 20
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def _q4_1(raw: Bytes) -> Floats:
    """Blocks of 32 weights d * q + m: f16 d, f16 m, 16 bytes, the first 16 weights in the low nibbles, the
    others in the high.
    """
    blocks = raw.reshape(-1, 20)
    scale, least = (blocks[:, k : k + 2].copy().view(np.float16).astype(np.float32) for k in (0, 2))
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return nibbles.astype(np.float32) * scale + least


def _q8_0(raw: Bytes) -> Floats:
    """Blocks of 32 weights d * q: f16 d, 32 signed bytes."""
    blocks = raw.reshape(-1, 34)
    return blocks[:, 2:].copy().view(np.int8).astype(np.float32) * blocks[:, :2].copy().view(
        np.float16
    ).astype(np.float32)


@dataclass(frozen=True)
class _Kind:
    """A storage type: weights and bytes of a block, and what makes float32 of the bytes."""

    name: str
    weights: int
    size: int
    decode: Callable[[Bytes], Floats]


_KINDS = {
    0: _Kind("F32", 1, 4, lambda raw: raw.view(np.float32)),
    1: _Kind("F16", 1, 2, lambda raw: raw.view(np.float16).astype(np.float32)),
    3: _Kind("Q4_1", 32, 20, _q4_1),
    8: _Kind("Q8_0", 32, 34, _q8_0),
}


class GGUF:
    """An opened file: ``metadata`` by key, ``names`` of its tensors, ``tensor(name)`` in float32."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for another format or version, or a file that ends too early."""
        self.path = path
        if not path.stat().st_size:
            raise CheckpointError(f"{path} is empty: fetch it again")
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 4
        if self._data[:4] != b"GGUF":
            raise CheckpointError(f"{path} is no GGUF file")
        try:
            self._read_header()
        except struct.error:
            raise CheckpointError(f"{path} ends inside its header: fetch it again") from None
        except (UnicodeDecodeError, RecursionError) as fault:
            raise CheckpointError(f"{path} has a damaged header ({reason(fault)}): fetch it again") from None

    def _read_header(self) -> None:
        version = self._scalar(4)
        if version != 3:
            raise CheckpointError(f"{self.path} is GGUF version {version}; version 3 is read")
        tensors, pairs = self._scalar(10), self._scalar(10)
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._value(_STRING)
            self.metadata[key] = self._value(self._scalar(4))
        self._directory: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensors):
            name = self._value(_STRING)
            shape = tuple(self._scalar(10) for _ in range(self._scalar(4)))[::-1]
            self._directory[name] = (shape, self._scalar(4), self._scalar(10))
        step = self.metadata.get("general.alignment", 32)
        if not isinstance(step, int) or not 1 <= step <= _MOST_ALIGNED:
            raise CheckpointError(f"{self.path} is aligned by {brief(step)}: fetch it again")
        self._start = -(-self._at // step) * step

    def _scalar(self, kind: int) -> Any:
        if kind not in _SCALARS:
            raise CheckpointError(
                f"{self.path} holds a metadata value of type {kind}, which GGUF version 3 does not have"
            )
        code = "<" + _SCALARS[kind]
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            length = self._scalar(10)
            if self._at + length > len(self._data):
                raise struct.error
            self._at += length
            return self._data[self._at - length : self._at].decode()
        if kind == _ARRAY:
            element, count = self._scalar(4), self._scalar(10)
            return [self._value(element) for _ in range(count)]
        return self._scalar(kind)

    @property
    def names(self) -> list[str]:
        return list(self._directory)

    def tensor(self, name: str) -> Floats:
        """A tensor in float32, shaped as in PyTorch. CheckpointError for a storage type we do not read or
        missing bytes.
        """
        if name not in self._directory:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        shape, code, offset = self._directory[name]
        if code not in _KINDS:
            known = ", ".join(kind.name for kind in _KINDS.values())
            raise CheckpointError(
                f"{self.path}: tensor {printable(name)} is stored as GGUF type {code}; read are {known}"
            )
        kind = _KINDS[code]
        count = math.prod(shape)
        if count % kind.weights:
            raise CheckpointError(
                f"{self.path}: tensor {printable(name)} is no whole number of {kind.name} blocks: fetch "
                "it again"
            )
        size = count // kind.weights * kind.size
        begin = self._start + offset
        if begin + size > len(self._data):
            raise CheckpointError(f"{self.path} ends inside tensor {printable(name)}: fetch it again")
        raw = np.frombuffer(self._data, np.uint8, size, begin)
        return kind.decode(raw.copy()).reshape(shape)
