"""What a decoder asks of the model: one row's part of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.decoding.rules import Span

MaskKind = Literal["full", "causal", "block_causal"]


@dataclass(frozen=True)
class Forward:
    """One row's part of a forward pass.

    window: positions [start, stop) fed to the model.
    at: positions whose token is to be predicted; logits are computed there and nowhere else.
    store: positions whose keys/values are kept in the cache afterwards (None: nothing is kept).
    mask: "full" (bidirectional), "causal", or "block_causal" (prompt = block 0, then blocks of
        ``block_size``; a position sees its own and earlier blocks).
    fresh: drop the row's cache first (a refresh pass).
    cached: read and write the cache; false runs the window on its own.
    assume: tokens taken for granted in this pass alone ("what if") at window positions behind the prompt;
        nothing is written.
    trial: set the stored keys/values aside instead of keeping them, so that several what-if passes start
        from the same cache; the row's trials are numbered from 0.
    adopt: before this pass, keep what that trial had set aside and forget the other trials.
    level: id of the noise level, told to a uniform-state model in the place of the row's first token; such ids are no text.
    """

    window: Span
    at: Sequence[int]
    store: Span | None = None
    mask: MaskKind = "full"
    block_size: int | None = None
    fresh: bool = False
    cached: bool = True
    assume: Mapping[int, int] | None = None
    trial: bool = False
    adopt: int | None = None
    level: int | None = None
