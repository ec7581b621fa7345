"""Which weights are in memory together: all that fit, the others in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.engine.held import Held
from harness.measuring import memory

WORK = 1.2
"""Room that weights need in units of their own size: keys and values, logits and buffers come on top."""


@dataclass(frozen=True)
class MemoryPlan:
    """``packs``: sets of weights that are in memory together, one pack after the other. ``size`` and
    ``free``: bytes of all weights and of the room for them."""

    packs: list[list[Held]]
    size: int
    free: int

    @property
    def together(self) -> bool:
        return len(self.packs) < 2

    def told(self) -> str:
        """One line for people."""
        what = f"weights of {len(self.packs)} packs take {_gb(self.size)}, {_gb(self.free)} are free"
        return (
            f"{what}: loaded in turn, and only methods whose weights are in memory together are interleaved"
        )


def plan_memory(weights: Sequence[Held]) -> MemoryPlan:
    """Distinct weights in the order of their first use, as many together as there is room for; a pack has one
    at least.

    Weights that are in memory already take no further room there, but count when packs are needed.
    """
    distinct = list({id(held): held for held in weights}.values())
    sizes = {id(held): held.size for held in distinct}
    room = (
        memory.free(distinct[0].device) + sum(sizes[id(held)] for held in distinct if held.in_memory)
        if distinct
        else 0
    )
    packs: list[list[Held]] = []
    for held in distinct:
        last = packs[-1] if packs else []
        if last and sum(sizes[id(other)] for other in (*last, held)) * WORK <= room:
            last.append(held)
        else:
            packs.append([held])
    return MemoryPlan(packs, sum(sizes.values()), room)


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
