"""Who may attend to whom, as functions of (query position, key position): one definition for dense masks,
compiled kernels and tests.

Positions are row coordinates. A mask is called with integer tensors that broadcast, and answers with a
boolean tensor, true = may attend; ``flex`` turns it into the four-argument form that FlexAttention takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.model.spec import ModelSpec


class Mask(Protocol):
    """A rule of attention; ``prompt`` is the row's prompt length."""

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        """Whether ``query`` may attend to ``key``."""
        ...

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        """Whether every query in [first, last] may attend to every key in [first, last], so that no mask is
        needed.
        """
        ...


@dataclass(frozen=True)
class Full:
    """Everything sees everything."""

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        return torch.ones_like(query == key)

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        return True


@dataclass(frozen=True)
class Causal:
    """A position sees itself and what is before it."""

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        return key <= query

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        return keys[1] <= queries[0]


@dataclass(frozen=True)
class BlockCausal:
    """A position sees its own block and earlier ones.

    size: tokens per block. origin: position at which the first block of ``size`` starts and before which all
    is one block; None: the end of the prompt (D2F); 0: blocks aligned to absolute positions, the prompt
    included (block-diffusion models).
    """

    size: int
    origin: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a block-causal mask needs a block size of at least 1, not {self.size}")

    def _block(self, position: Tensor, start: int) -> Tensor:
        # What lies before the first block is block -1.
        return (position - start).clamp(min=-1).div(self.size, rounding_mode="floor")

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        # A key belongs to the query's block or an earlier one if it lies before that block's end.
        start = prompt if self.origin is None else self.origin
        return key < (self._block(query, start) + 1) * self.size + start

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        start = prompt if self.origin is None else self.origin
        first, last = (
            0 if position < start else (position - start) // self.size + 1
            for position in (queries[0], keys[1])
        )
        return last <= first


@dataclass(frozen=True)
class LeaveOneOut:
    """Everything sees everything but its own place (the rule of shadow rows towards the canvas)."""

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        return key != query

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        return False


@dataclass(frozen=True)
class Blind:
    """Nothing is seen (the rule of shadow rows that are a canvas of their own)."""

    def allowed(self, query: Tensor, key: Tensor, prompt: int) -> Tensor:
        return torch.zeros_like(query == key)

    def trivial(self, queries: tuple[int, int], keys: tuple[int, int], prompt: int) -> bool:
        return False


def own_blocks(spec: ModelSpec, prompt: int) -> BlockCausal:
    """The blocks of a block-diffusion model on a row with that prompt length. ValueError for a model without
    blocks.
    """
    if spec.block_size is None:
        raise ValueError(f"a {spec.family} model has no blocks of its own")
    return BlockCausal(spec.block_size, prompt % spec.block_size if spec.block_align == "prompt" else 0)


FULL, CAUSAL, LEAVE_ONE_OUT, BLIND = Full(), Causal(), LeaveOneOut(), Blind()


def flex(mask: Mask, prompt: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask in FlexAttention's form ``f(batch, head, query, key)``, for queries and keys that stand at
    their own positions.
    """
    return lambda batch, head, query, key: mask.allowed(query, key, prompt)


def reaches(mask: Mask, queries: Sequence[int], prompt: int) -> list[int] | None:
    """End of the stretch of keys from 0 that is exactly what each query may attend to; -1: it has no end.
    None: what the mask allows is no such stretch.
    """
    if isinstance(mask, Full):
        return [-1] * len(queries)
    if isinstance(mask, Causal):
        return [query + 1 for query in queries]
    if isinstance(mask, BlockCausal):
        start, size = prompt if mask.origin is None else mask.origin, mask.size
        return [max(start, query + size - (query - start) % size) for query in queries]
    return None
