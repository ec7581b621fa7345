"""Tensors through shared memory: the judge writes, the jail reads a copy of its own."""

from __future__ import annotations

import mmap
import os
from typing import Any

import torch
from torch import Tensor

from harness.decoding.candidates import Candidates

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16", "int64")}


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class Board:
    """The judge's side: a file in memory of ``capacity`` bytes, touched only as far as it is used; ``handle``
    can be read alone.
    """

    def __init__(self, capacity: int) -> None:
        own = os.memfd_create("board", os.MFD_CLOEXEC)
        os.truncate(own, capacity)
        self.handle = os.open(f"/proc/self/fd/{own}", os.O_RDONLY | os.O_CLOEXEC)
        self._memory = mmap.mmap(own, capacity)
        os.close(own)

    def write(self, answer: Tensor | Candidates) -> list[Any]:
        """Put an answer on the board; what the reader needs to find it: per tensor [dtype, shape], equal ones
        named once.

        Raises ValueError for what does not fit.
        """
        if isinstance(answer, Tensor):
            return ["logits", *self._put([answer])]
        same = answer.score is answer.probability
        return ["candidates", *self._put([answer.ids, answer.probability, *([] if same else [answer.score])])]

    def _put(self, tensors: list[Tensor]) -> list[Any]:
        told, offset = [], 0
        for tensor in tensors:
            if tensor.numel():
                try:
                    view = torch.frombuffer(
                        self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset
                    )
                except ValueError:
                    raise ValueError(
                        f"logits of {list(tensor.shape)} do not fit into the shared memory"
                    ) from None
                view.view(tensor.shape).copy_(tensor)
            told.append([_name(tensor), list(tensor.shape)])
            offset += -(-tensor.numel() * tensor.element_size() // 8) * 8
        return told

    def close(self) -> None:
        """Give the memory back once no tensor looks at it."""
        os.close(self.handle)


class Reader:
    """The jail's side of a board."""

    def __init__(self, handle: int) -> None:
        # Private: never written here, and a copy on write, since torch has no tensors that cannot be written
        # to.
        self._memory = mmap.mmap(handle, 0, flags=mmap.MAP_PRIVATE)
        os.close(handle)

    def read(self, told: list[Any]) -> Tensor | Candidates:
        """The answer that ``Board.write`` told of."""
        kind, *places = told
        found, offset = [], 0
        for name, shape in places:
            dtype, count = DTYPES[name], 1
            for size in shape:
                count *= size
            if count:
                found.append(
                    torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)
                    .view(shape)
                    .clone()
                )
            else:
                found.append(torch.empty(shape, dtype=dtype))
            offset += -(-count * found[-1].element_size() // 8) * 8
        return found[0] if kind == "logits" else Candidates(found[0], found[1], found[-1])
