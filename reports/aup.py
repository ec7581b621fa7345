"""AUP (accuracy under parallelism), for comparison with the literature only.

The figure depends on ``y_max``, the best accuracy of whatever other rows share the table: leaving rivals out
changes a method's AUP with nothing measured again. It is therefore always given with its pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports.cells import number
from reports.table import Table

WEIGHT = 3.0
TOLERATED_LOSS = 5.0
"""Points this many percentage points below a method's first one are dropped."""


@dataclass(frozen=True)
class Aup:
    """A method's AUP from its (tokens per forward, accuracy in percent) points."""

    method: str
    points: Sequence[tuple[float, float]]
    value: float


def aup(points: Sequence[tuple[float, float]], y_max: float) -> float:
    """rho_1 y_1 + 1/2 sum (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})), W(y) = min(exp(-3 (1 - y /
    y_max)), 1).

    ``points`` are (rho: tokens per forward, y: accuracy in percent) in any order; ``y_max`` is in percent.
    The first term is not weighted, as in d3LLM, which defines the figure. ValueError without points or a
    positive ``y_max``.
    """
    if not points or y_max <= 0:
        raise ValueError("AUP needs at least one point and a positive y_max")
    ordered = sorted(points)
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - TOLERATED_LOSS]
    area = kept[0][0] * kept[0][1]
    for (left, low), (right, high) in pairwise(kept):
        area += 0.5 * (right - left) * (high * _weight(high, y_max) + low * _weight(low, y_max))
    return area


def pool(table: Table) -> tuple[float, list[Aup]] | None:
    """(y_max in percent, AUP per method) over all rows of a table; None if nothing was graded or solved."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in table.rows:
        figures = row.stored.summary
        if figures.tpf is not None and figures.pass_at_1 is not None:
            points.setdefault(row.stored.run.plan.method, []).append((figures.tpf, 100 * figures.pass_at_1))
    y_max = max((y for pairs in points.values() for _, y in pairs), default=0.0)
    if y_max <= 0:
        return None
    return y_max, [Aup(method, sorted(pairs), aup(pairs, y_max)) for method, pairs in sorted(points.items())]


def sentence(table: Table) -> str | None:
    """The AUP figures of a table with their y_max and pool, in words."""
    found = pool(table)
    if found is None:
        return None
    y_max, methods = found
    figures = ", ".join(
        f"{one.method} {number(one.value)} ({len(one.points)} point{'s' * (len(one.points) > 1)})"
        for one in methods
    )
    names = ", ".join(one.method for one in methods)
    return (
        f"AUP, for comparison with the literature only: {figures}; y_max {y_max:.1f}% over this pool "
        f"({names}). "
        "It changes when rows are added or left out."
    )


def _weight(y: float, y_max: float) -> float:
    return min(math.exp(-WEIGHT * (1 - y / y_max)), 1.0)
