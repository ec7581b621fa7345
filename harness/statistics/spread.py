"""How far the mean of paired gains may lie from the truth: documents (or batches) and passes of the machine
are crossed random effects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.resampling import Floats

Costs = Sequence[tuple[dict[int, float], dict[int, float]]]
"""Per document (or batch): cost by repeat of either side."""


@dataclass(frozen=True)
class Spread:
    """Half width of Student's interval, the factor by which passes widen one of documents alone, and the
    p-value that the mean is 0.
    """

    half: float
    widening: float
    p_value: float


def drift(gain: Floats, weights: Floats, costs: Costs, level: float) -> Spread:
    """The spread of the weighted mean of ``gain``, one entry per document (or batch).

    Passes and documents are crossed random effects; their variances add, with Satterthwaite's degrees of
    freedom. These are counted from the mean square of passes as it was found: two or three passes say little
    of how far passes differ, also where they happen to agree. The half width is at least what passes alone
    give with their own degrees of freedom.
    """
    from scipy.stats import t

    n, mean = len(gain), float(weights @ gain)
    documents = max(float((weights**2 * (gain - mean) ** 2).sum()) * n / (n - 1), 1e-18)
    found, passes, pass_df = _of_passes(costs)
    total = documents + passes
    freedom = max(total**2 / (documents**2 / (n - 1) + found**2 / pass_df), pass_df) if found else n - 1
    whole, alone = (float(t.ppf(0.5 + level / 2, df)) for df in (freedom, pass_df))
    half = max(whole * math.sqrt(total), alone * math.sqrt(passes))
    widening = half / (math.sqrt(documents) * float(t.ppf(0.5 + level / 2, n - 1)))
    p_value = float(2 * t.sf(abs(mean) / math.sqrt(total), freedom))
    if passes:
        p_value = max(p_value, float(2 * t.sf(abs(mean) / math.sqrt(passes), pass_df)))
    return Spread(half, widening, p_value)


def _of_passes(costs: Costs) -> tuple[float, float, int]:
    """(mean square of passes, the variance that they add, degrees of freedom) of a mean over those who have
    all passes; zeros: one pass.
    """
    common = [sorted(before.keys() & after.keys()) for before, after in costs]
    full = max(common, key=len)
    rows = [
        [before[r] - after[r] for r in full]
        for (before, after), repeats in zip(costs, common, strict=True)
        if repeats == full
    ]
    if len(full) < 2 or len(rows) < 2:
        return 0.0, 0.0, 1
    table = np.array(rows)
    within = float((table - table.mean(0)).var(axis=1, ddof=1).mean())
    found = float(table.mean(0).var(ddof=1)) / len(full)
    return found, max(0.0, found - within / len(rows) / len(full)), len(full) - 1
