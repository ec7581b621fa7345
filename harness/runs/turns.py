"""The order in which an invocation's cells run.

Cells of one suite that share the machine are interleaved document by document in A B B A order, so that
slow minutes of the machine hit every method alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.engine.held import Held
from harness.measuring.protocol import interleaved
from harness.runs.cell import Cell
from harness.runs.packing import Packing, pack

Progress = Callable[[Cell, int], None]


def run_cells(
    cells: Sequence[Cell], jail: Any, progress: Progress, tell: Callable[[str], None] | None = None
) -> None:
    """Run all cells to the end; ``progress`` is called with (cell, samples done) after each batch.

    Cells of one suite whose weights fit into memory together take turns document by document; ``tell`` gets a
    line if not all fit.
    """
    unfinished = [cell for cell in cells if not cell.folder.complete]
    packing = pack([cell.generator.loaded.held for cell in unfinished])
    if not packing.together and tell is not None:
        tell(packing.told())
    for held in packing.packs:
        mine = [cell for cell in unfinished if cell.generator.loaded.held in held]
        if not packing.together:
            _make_room(packing, held)
        for suite in dict.fromkeys(cell.suite.name for cell in mine):
            _run_group([cell for cell in mine if cell.suite.name == suite], packing, jail, progress)
    if not packing.together:
        _make_room(packing, [])


def _make_room(packing: Packing, wanted: Sequence[Held]) -> None:
    """Give back all weights but the ``wanted`` ones."""
    for held in (held for one in packing.packs for held in one if held.in_memory and held not in wanted):
        held.release()


def _run_group(group: Sequence[Cell], packing: Packing, jail: Any, progress: Progress) -> None:
    for cell in group:
        cell.begin()
    for cell in group:
        cell.warm_up()
        _note_company(cell, group, packing)
    queues = [list(cell.chunks()) for cell in group]
    for place, turn in interleaved([len(queue) for queue in queues]):
        group[place].step(queues[place][turn], jail)
        progress(group[place], len(queues[place][turn]))
    for cell in group:
        cell.finish()


def _note_company(cell: Cell, group: Sequence[Cell], packing: Packing) -> None:
    """Say in the run which runs it was interleaved with, whether they computed with the same weights, and
    what was in memory.
    """
    if cell.pending:
        others = [other for other in group if other is not cell and other.pending]
        shared = any(other.generator.loaded.held is cell.generator.loaded.held for other in others)
        memory = {
            "weights": "together" if packing.together else "in turn",
            "bytes": packing.size,
            "free_bytes": packing.free,
        }
        cell.note(
            interleaved_with=[other.folder.run.run_id for other in others],
            weights_shared=shared,
            memory=memory,
        )
