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
        self._logits: dict[int, tuple[Tensor, int]] = {}
        self._ranks: list[tuple[Sequence[int], Tensor]] = []
        self._unasked: list[int] = []

    def answered(self, request: Forward, answer: Tensor | Candidates) -> None:
        """Note the answer to a request."""
        if not self.greedy:
            return
        if isinstance(answer, Candidates):
            for position, token in zip(request.at, answer.ids.tolist(), strict=True):
                self._ids.setdefault(position, set()).add(token)
        else:
            for slot, position in enumerate(request.at):
                self._logits[position] = answer, slot

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
            logits, slot = self._logits[position]
            scores = logits[slot]
            self._ranks.append(([position], (scores > scores[token]).sum()))

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
