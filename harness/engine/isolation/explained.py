"""Whether what a decoder writes is what the model said: each id must be among the likeliest that a pass gave
for its position.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from harness.decoding.candidates import Candidates
from harness.decoding.forward import Forward
from harness.decoding.row import Row

LIKELY = 16
"""Ranks that count as said by the model; greedy methods write the first."""


class Offers:
    """What one row's passes offered; at temperature 0 only, whatever else a decoder draws lots for.

    Ranks are left on the device until ``faults`` asks for them, behind the clock.
    """

    def __init__(self, row: Row, greedy: bool) -> None:
        self.row, self.greedy = row, greedy
        self._ids: dict[int, set[int]] = {}
        self._logits: dict[int, tuple[Tensor, list[int]]] = {}
        self._ranks: list[tuple[Sequence[int], Tensor]] = []
        self._unasked: list[int] = []

    def answered(self, request: Forward, answer: Tensor | Candidates) -> None:
        """Note the answer to a request; shadow rows speak for the positions that they stand for."""
        if not self.greedy:
            return
        length, shadow = self.row.length, request.shadow
        at = [
            place if place < length or shadow is None else shadow.at[place - length] for place in request.at
        ]
        if isinstance(answer, Candidates):
            for position, token in zip(at, answer.ids.tolist(), strict=True):
                self._ids.setdefault(position, set()).add(token)
        else:
            for position in at:
                self._logits[position] = answer, []
            for slot, position in enumerate(at):
                self._logits[position][1].append(slot)

    def _stands_for(self, place: int, request: Forward) -> int:
        length, shadow = self.row.length, request.shadow
        return place if place < length or shadow is None else shadow.at[place - length]

    def written(self, at: Sequence[int], ids: Sequence[int]) -> None:
        """Note a write before it is done."""
        if not self.greedy:
            return
        for position, token in zip(at, ids, strict=False):
            if token in self._ids.get(position, ()) or token == self.row._rules.mask_id:
                continue
            if position not in self._logits:
                self._unasked.append(position)
                continue
            logits, slots = self._logits[position]
            scores = logits[slots]
            self._ranks.append(([position], (scores > scores[:, token, None]).sum(1).min()))

    def faults(self) -> list[str]:
        """Positions that were written with something that no pass had offered."""
        found = [
            f"position {position} was written with an id that no pass offered there"
            for position in self._unasked
        ]
        ranks = [(at[0], int(rank)) for at, rank in self._ranks]
        return found + [
            f"position {position} holds the id of rank {rank + 1}"
            for position, rank in ranks
            if rank >= LIKELY
        ]
