"""Paired comparison of the accuracy of two runs over the same documents: McNemar, bootstrap, non-inferiority,
Holm.

The document is the unit everywhere; repeats of a document are nested in it. scipy is loaded only when a test
is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.records.schema import Sample
from harness.statistics.resampling import Floats, bootstrap, percentiles
from harness.statistics.summary import outcomes, pass_rates

Decision = Literal["yes", "no", "not enough samples"]
LARGEST_SAMPLE = 10_000
"""Documents beyond which no number is named: no suite has them, and the estimate behind it is noise."""
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval (None: fewer than two documents), and how many documents it rests on.

    ``left_out`` counts documents that both sides have and that could not be used. ``p_value`` is two-sided.
    """

    estimate: float | None
    low: float | None
    high: float | None
    documents: int
    left_out: int = 0
    p_value: float | None = None


@dataclass(frozen=True)
class NonInferiority:
    """Whether accuracy is at most ``margin`` (a fraction) below the baseline's.

    ``low`` and ``high`` bound the difference (Tango's score interval). ``documents_needed`` would decide with
    80% power if the observed difference and discordance are the true ones; None: no affordable number would.
    """

    decision: Decision
    margin: float
    low: float
    high: float
    documents_needed: int | None


def mcnemar_exact(gains: int, losses: int) -> float:
    """Two-sided exact McNemar p-value from the two discordant counts (documents only one side solves)."""
    from scipy.stats import binomtest

    return 1.0 if gains + losses == 0 else float(binomtest(gains, gains + losses, 0.5).pvalue)


def changes(baseline: Sequence[Sample], other: Sequence[Sample]) -> Floats:
    """[documents] change of the pass rate per document both sides graded (other minus baseline)."""
    before, after = pass_rates(baseline), pass_rates(other)
    return np.array([after[document] - before[document] for document in sorted(before.keys() & after.keys())])


def paired_bootstrap_difference(
    baseline: Sequence[Sample],
    other: Sequence[Sample],
    *,
    draws: int = 4000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Difference of pass@1 (other minus baseline, a fraction) over the documents both sides graded.

    Documents are resampled with replacement, then the repeats of each drawn document on each side. The
    p-value is McNemar's, on the sign of each document's change.
    """
    before, after = outcomes(baseline), outcomes(other)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Interval(None, None, None, 0)
    pairs = [(np.array(before[document], float), np.array(after[document], float)) for document in shared]
    change = np.array([b.mean() - a.mean() for a, b in pairs])
    p_value = mcnemar_exact(int((change > 0).sum()), int((change < 0).sum()))
    if len(pairs) < 2:
        return Interval(float(change.mean()), None, None, 1, 0, p_value)
    low, high = percentiles(bootstrap(pairs, draws, seed), len(pairs), level)
    return Interval(float(change.mean()), low, high, len(pairs), 0, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: adjusted p-values in the order given (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def tango(gains: float, losses: float, documents: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a paired difference of proportions (Tango 1998), valid with few or no discordant
    documents.

    ``gains`` and ``losses`` are the summed positive and negative changes per document: counts with one
    repeat, fractional with several.
    """
    from scipy.optimize import root_scalar
    from scipy.stats import norm

    z, n, observed = float(norm.ppf(0.5 + level / 2)), documents, (gains - losses) / documents

    def score(delta: float) -> float:
        b = (2 * n - gains + losses) * delta - gains - losses
        q = (
            (math.sqrt(b * b + 8 * n * losses * delta * (1 - delta)) - b) / (4 * n)
            if -1 < delta < 1
            else abs(delta)
        )
        variance = n * (2 * q + delta * (1 - delta))
        return 0.0 if variance <= 1e-12 else (gains - losses - n * delta) / math.sqrt(variance)

    edge = 1 - 1e-9
    low = -1.0 if observed <= -edge else root_scalar(lambda d: score(d) - z, bracket=(-edge, observed)).root
    high = 1.0 if observed >= edge else root_scalar(lambda d: score(d) + z, bracket=(observed, edge)).root
    return float(low), float(high)


def non_inferiority(
    gains: float, losses: float, documents: int, margin: float = 0.03, level: float = 0.95
) -> NonInferiority:
    """Decide from the discordant counts (see ``tango``) whether the loss of accuracy stays within ``margin``.

    yes: the whole interval lies above -margin; no: below it; otherwise there are not enough samples.
    ValueError for a margin outside (0, 1) or no documents.
    """
    if not 0 < margin < 1 or documents < 1:
        raise ValueError(
            f"non-inferiority needs a margin in (0, 1) and documents, got {margin} and {documents}"
        )
    low, high = tango(gains, losses, documents, level)
    decision: Decision = "yes" if low > -margin else "no" if high < -margin else "not enough samples"
    # Agresti and Min's half counts: no discordant document seen does not mean that there are none.
    discordance = (gains + losses + 1) / (documents + 2)
    needed = documents_to_decide((gains - losses) / documents, discordance, margin, level)
    return NonInferiority(decision, margin, low, high, needed)


def documents_to_decide(
    difference: float, discordance: float, margin: float, level: float = 0.95
) -> int | None:
    """Documents after which the interval clears -margin with 80% power; None beyond LARGEST_SAMPLE."""
    distance = difference + margin
    z, _ = quantiles(level)
    if abs(distance) < 1e-9:
        return None
    spread = max(discordance - difference * difference, 0.0)
    needed = max(
        sum(quantiles(level)) ** 2 * spread / distance**2, z * z * (1 / margin - 1) if distance > 0 else 0.0
    )
    return math.ceil(needed) if needed <= LARGEST_SAMPLE else None


def quantiles(level: float) -> tuple[float, float]:
    """Of the normal distribution: two-sided at ``level``, and one-sided at POWER."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2)), float(norm.ppf(POWER))
