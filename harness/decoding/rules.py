"""What a canvas is held to: its special ids, its length and the stop rule, fixed for the whole call."""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.text import StopStrings
from harness.records.schema import StopRule

Span = tuple[int, int]
"""Positions [start, stop)."""


class CanvasError(RuntimeError):
    """A decoder broke the contract: wrote twice, outside its region, or something that is no token."""


@dataclass(frozen=True)
class Rules:
    """One canvas' rules, the same for all of its rows.

    new_tokens: length of the generation region. fill_id: what unwritten positions hold (the mask id, if there
    is one). first_block: tokens whose completion is timed as the first block. stops: strings that end a text
    under the harness' stop rule, as end-of-text does.
    """

    new_tokens: int
    vocab_size: int
    mask_id: int | None
    eos_ids: frozenset[int]
    fill_id: int
    stop_rule: StopRule = "harness"
    first_block: int = 8
    stops: StopStrings | None = None
