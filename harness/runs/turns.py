"""The order in which an invocation's cells run.

Cells of one suite that share the machine are interleaved document by document in A B B A order, so that
slow minutes of the machine hit every method alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.engine.held import Held
from harness.measuring.fingerprint import fingerprint, weights_check
from harness.measuring.protocol import interleaved
from harness.runs.cell import Cell
from harness.runs.memory_plan import MemoryPlan, plan_memory

Progress = Callable[[Cell, int], None]


def run_cells(
    cells: Sequence[Cell], jail: Any, progress: Progress, tell: Callable[[str], None] | None = None
) -> None:
    """Run all cells to the end; ``progress`` is called with (cell, samples done) after each batch.

    Cells of one suite whose weights fit into memory together take turns document by document; ``tell`` gets a
    line if not all fit.
    """
    unfinished = [cell for cell in cells if not cell.folder.complete]
    plan = plan_memory([cell.generator.loaded.held for cell in unfinished])
    if not plan.together and tell is not None:
        tell(plan.told())
    for held in plan.packs:
        mine = [cell for cell in unfinished if cell.generator.loaded.held in held]
        if not plan.together:
            _make_room(plan, held)
        for suite in dict.fromkeys(cell.suite.name for cell in mine):
            _run_group([cell for cell in mine if cell.suite.name == suite], plan, jail, progress)
    if not plan.together:
        _make_room(plan, [])


def _make_room(plan: MemoryPlan, wanted: Sequence[Held]) -> None:
    """Give back all weights but the ``wanted`` ones."""
    for held in (held for one in plan.packs for held in one if held.in_memory and held not in wanted):
        held.release()


def _run_group(group: Sequence[Cell], plan: MemoryPlan, jail: Any, progress: Progress) -> None:
    for cell in group:
        cell.begin()
    decoding = [cell for cell in group if cell.pending and cell.weights_seen]
    before = _fingerprints(decoding)
    for cell in group:
        cell.warm_up()
        _note_company(cell, group, plan)
    queues = [list(cell.chunks()) for cell in group]
    for place, turn in interleaved([len(queue) for queue in queues]):
        group[place].step(queues[place][turn], jail)
        progress(group[place], len(queues[place][turn]))
    after = _fingerprints(decoding)
    for cell in group:
        own = id(cell.generator.loaded.held)
        cell.finish([weights_check(before[own], after[own])] if cell in decoding else [])


def _fingerprints(cells: Sequence[Cell]) -> dict[int, str]:
    """The weights of all cells, by the identity of what holds them; those that cells share are read once."""
    held = {id(cell.generator.loaded.held): cell.generator.loaded.held for cell in cells}
    return {own: fingerprint(weights.get()) for own, weights in held.items()}


def _note_company(cell: Cell, group: Sequence[Cell], plan: MemoryPlan) -> None:
    """Say in the run which runs it was interleaved with, whether they computed with the same weights, and
    what was in memory.
    """
    if cell.pending:
        others = [other for other in group if other is not cell and other.pending]
        shared = any(other.generator.loaded.held is cell.generator.loaded.held for other in others)
        memory = {
            "weights": "together" if plan.together else "in turn",
            "bytes": plan.size,
            "free_bytes": plan.free,
        }
        cell.note(
            interleaved_with=[other.folder.run.run_id for other in others],
            weights_shared=shared,
            memory=memory,
        )
