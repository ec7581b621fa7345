"""What a decoder asks of the model: one row's part of a forward pass."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.decoding.candidates import Want
from harness.decoding.masks import FULL, LEAVE_ONE_OUT, Mask
from harness.decoding.rules import Span

Places = Span | range | Sequence[int] | Sequence[Span]
"""Positions of a row: a span (start, stop), a range, several spans, or a list of single positions,
ascending.
"""


def positions_of(places: Places) -> range | list[int]:
    """The positions that ``places`` names: a range where they are consecutive, else a list.

    A tuple of two integers is a span, a list of integers is single positions. Raises ValueError unless they
    ascend.
    """
    if isinstance(places, range):
        found: range | list[int] = places
    elif (
        isinstance(places, tuple)
        and len(places) == 2
        and isinstance(places[0], int)
        and isinstance(places[1], int)
    ):
        return range(places[0], places[1])
    else:
        found = []
        for place in places:
            found.extend([place] if isinstance(place, int) else range(*place))
    if any(after <= before for before, after in itertools.pairwise(found)):
        raise ValueError(f"positions {list(found)[:8]} must ascend, each once")
    if found and found[-1] - found[0] == len(found) - 1:
        return range(found[0], found[-1] + 1)
    return list(found)


def spans_of(positions: Sequence[int]) -> list[Span]:
    """Ascending positions as half-open spans."""
    spans: list[Span] = []
    for position in [] if isinstance(positions, range) else positions:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return [(positions.start, positions.stop)] if isinstance(positions, range) and len(positions) else spans


@dataclass(frozen=True)
class Shadow:
    """Extra rows of one pass that stand for canvas positions without being on it; they are never stored and
    the canvas never sees them.

    at: positions they stand for (their position ids). ids: what they hold; None: the mask id. mask: what they
    see of the canvas, by default all but their own counterpart. groups: parts of equal size; shadow rows see
    those of their own part. Their logits are asked for at positions ``row.length + k`` for the k-th; a model
    with shifted predictions gives them from shadow row k - 1 (the first from the canvas' last position), as
    it does for the positions of a longer row.
    """

    at: Sequence[int]
    ids: Sequence[int] | None = None
    mask: Mask = LEAVE_ONE_OUT
    groups: int = 1


@dataclass(frozen=True)
class Soft:
    """A mixture of embeddings as one position's input: ``ids`` [k] with ``weights`` [k]."""

    ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Forward:
    """One row's part of a forward pass.

    feed: positions fed to the model; see Places.
    at: positions whose token is to be predicted; logits are computed there and nowhere else.
    keep: fed positions whose keys and values stay in the store afterwards, anywhere in the row (None: none).
    see: stored positions that may be attended to (None: all that are valid). What is fed always sees what is
    fed, as ``mask`` allows. mask: who sees whom, see harness.decoding.masks.
    fresh: forget the row's store first (a refresh pass).
    cached: read and write the store; false runs what is fed on its own.
    assume: tokens taken for granted in this pass alone ("what if") at fed positions behind the prompt;
    nothing is written. soft: mixtures of embeddings instead of tokens at fed positions behind the prompt.
    shadow: rows beside the canvas, see Shadow.
    layers: what a cache policy does inside the layers, see harness.decoding.layer; feeds and keeps the whole
    row. trial: set the stored keys and values aside instead of keeping them, so that several what-if passes
    start from the same store; the
        row's trials are numbered from 0.
    adopt: before this pass, keep what that trial had set aside and forget the other trials.
    want: greedy candidates instead of logits, see harness.decoding.candidates; what the program is sent then.
    level: id of the noise level, told to a uniform-state model in the place of the row's first token; such
    ids are no text.
    """

    feed: Places
    at: Sequence[int]
    keep: Places | None = None
    see: Places | None = None
    mask: Mask = FULL
    fresh: bool = False
    cached: bool = True
    assume: Mapping[int, int] | None = None
    soft: Mapping[int, Soft] = field(default_factory=dict)
    shadow: Shadow | None = None
    layers: Any = None
    trial: bool = False
    adopt: int | None = None
    level: int | None = None
    want: Want | None = None

    def but(self, **changes: Any) -> Forward:
        """The same request with other fields. Made at every step: a tenth of what ``dataclasses.replace``
        costs.
        """
        other = object.__new__(Forward)
        other.__dict__.update(self.__dict__, **changes)
        return other
