"""Paired comparison of two runs over the same documents: McNemar, bootstrap, speed-up, non-inferiority, Holm.

The document is the unit everywhere; repeats of a document are nested in it. scipy is loaded only when a test is run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.records.schema import Sample
from harness.statistics.batches import clusters
from harness.statistics.summary import outcomes, pass_rates

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[Floats, Floats]]
Repeats = dict[int, dict[int, float]]
"""Per document and repeat: log of the cost per useful token."""
Decision = Literal["yes", "no", "not enough samples"]
Cost = Literal["time_s", "nfe"]
"""What a useful token costs: seconds, or forward passes."""
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

    ``low`` and ``high`` bound the difference (Tango's score interval). ``documents_needed`` would decide with 80% power
    if the observed difference and discordance are the true ones; None: no affordable number would.
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
    baseline: Sequence[Sample], other: Sequence[Sample], *, draws: int = 4000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Difference of pass@1 (other minus baseline, a fraction) over the documents both sides graded.

    Documents are resampled with replacement, then the repeats of each drawn document on each side. The p-value is
    McNemar's, on the sign of each document's change.
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
    low, high = _percentiles(_bootstrap(pairs, draws, seed), len(pairs), level)
    return Interval(float(change.mean()), low, high, len(pairs), 0, p_value)


def speedup(
    baseline: Sequence[Sample], other: Sequence[Sample], *, cost: Cost = "time_s", draws: int = 4000, seed: int = 0, level: float = 0.95
) -> Interval:
    """exp(mean over documents of log(baseline's seconds per useful token / other's)): above 1 means ``other`` is faster.

    With ``cost`` "nfe" it is the ratio of tokens per forward pass, which no clock can disturb. Where rows shared a clock the batches are
    the sample, and the interval is Student's: batches are few, and percentiles of few resampled values are too narrow.

    A document is left out, and counted, when either side has no repeat with useful tokens and a time. Bootstrap over
    documents with repeats nested. A slow spell of the machine hits a whole pass (one repeat of all documents), which
    resampling documents cannot see; with two or more passes its size is measured and the interval widened to cover it.
    """
    before, after = _log_costs(baseline, cost), _log_costs(other, cost)
    shared = sorted(before.keys() & after.keys())
    usable = [document for document in shared if before[document] and after[document]]
    left_out = len(shared) - len(usable)
    if not usable:
        return Interval(None, None, None, 0, left_out)
    pairs = [(_values(after[document]), _values(before[document])) for document in usable]
    gain = np.array([b.mean() - a.mean() for a, b in pairs])
    estimate = float(gain.mean())
    if len(pairs) < 2:
        return Interval(math.exp(estimate), None, None, 1, left_out)
    groups = clusters((baseline, other), usable) if cost == "time_s" else [[document] for document in usable]
    if len(groups) < 2:
        return Interval(math.exp(estimate), None, None, len(pairs), left_out)
    if len(groups) < len(usable):
        half, p_value = _of_batches(groups, dict(zip(usable, gain, strict=True)), before, after, level)
        low, high = estimate - half, estimate + half
    else:
        low, high = _percentiles(_bootstrap(pairs, draws, seed), len(pairs), level)
        even = np.full(len(gain), 1 / len(gain))
        spread = _drift(gain, even, [(before[document], after[document]) for document in usable], level)
        low, high, p_value = estimate + (low - estimate) * spread.widening, estimate + (high - estimate) * spread.widening, spread.p_value
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), len(pairs), left_out, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: adjusted p-values in the order given (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def tango(gains: float, losses: float, documents: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a paired difference of proportions (Tango 1998), valid with few or no discordant documents.

    ``gains`` and ``losses`` are the summed positive and negative changes per document: counts with one repeat,
    fractional with several.
    """
    from scipy.optimize import root_scalar
    from scipy.stats import norm

    z, n, observed = float(norm.ppf(0.5 + level / 2)), documents, (gains - losses) / documents

    def score(delta: float) -> float:
        b = (2 * n - gains + losses) * delta - gains - losses
        q = (math.sqrt(b * b + 8 * n * losses * delta * (1 - delta)) - b) / (4 * n) if -1 < delta < 1 else abs(delta)
        variance = n * (2 * q + delta * (1 - delta))
        return 0.0 if variance <= 1e-12 else (gains - losses - n * delta) / math.sqrt(variance)

    edge = 1 - 1e-9
    low = -1.0 if observed <= -edge else root_scalar(lambda d: score(d) - z, bracket=(-edge, observed)).root
    high = 1.0 if observed >= edge else root_scalar(lambda d: score(d) + z, bracket=(observed, edge)).root
    return float(low), float(high)


def non_inferiority(gains: float, losses: float, documents: int, margin: float = 0.03, level: float = 0.95) -> NonInferiority:
    """Decide from the discordant counts (see ``tango``) whether the loss of accuracy stays within ``margin``.

    yes: the whole interval lies above -margin; no: below it; otherwise there are not enough samples.
    ValueError for a margin outside (0, 1) or no documents.
    """
    if not 0 < margin < 1 or documents < 1:
        raise ValueError(f"non-inferiority needs a margin in (0, 1) and documents, got {margin} and {documents}")
    low, high = tango(gains, losses, documents, level)
    decision: Decision = "yes" if low > -margin else "no" if high < -margin else "not enough samples"
    # Agresti and Min's half counts: no discordant document seen does not mean that there are none.
    discordance = (gains + losses + 1) / (documents + 2)
    needed = documents_to_decide((gains - losses) / documents, discordance, margin, level)
    return NonInferiority(decision, margin, low, high, needed)


def documents_to_decide(difference: float, discordance: float, margin: float, level: float = 0.95) -> int | None:
    """Documents after which the interval clears -margin with 80% power; None beyond LARGEST_SAMPLE."""
    distance = difference + margin
    z, _ = _quantiles(level)
    if abs(distance) < 1e-9:
        return None
    spread = max(discordance - difference * difference, 0.0)
    needed = max(sum(_quantiles(level)) ** 2 * spread / distance**2, z * z * (1 / margin - 1) if distance > 0 else 0.0)
    return math.ceil(needed) if needed <= LARGEST_SAMPLE else None


def documents_to_detect(ratio: Interval, level: float = 0.95) -> int | None:
    """Documents after which a speed-up as large as the estimate excludes 1 with 80% power; None: unknown or beyond LARGEST_SAMPLE."""
    if ratio.estimate is None or ratio.low is None or ratio.high is None or abs(math.log(ratio.estimate)) < 1e-9:
        return None
    z, _ = _quantiles(level)
    error = (math.log(ratio.high) - math.log(ratio.low)) / (2 * z)
    needed = ratio.documents * (sum(_quantiles(level)) * error / math.log(ratio.estimate)) ** 2
    return max(2, math.ceil(needed)) if needed <= LARGEST_SAMPLE else None


def _quantiles(level: float) -> tuple[float, float]:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2)), float(norm.ppf(POWER))


def _log_costs(samples: Iterable[Sample], cost: Cost) -> Repeats:
    """Per document and repeat: log of the cost per useful token; a repeat without useful tokens or cost is absent."""
    costs: dict[int, dict[int, float]] = defaultdict(dict)
    for sample in samples:
        repeats = costs[sample.doc_id]
        if sample.useful and (paid := getattr(sample, cost)):
            repeats[sample.repeat] = math.log(paid / sample.useful)
    return dict(costs)


def _values(repeats: dict[int, float]) -> Floats:
    return np.array([repeats[repeat] for repeat in sorted(repeats)])


@dataclass(frozen=True)
class _Spread:
    """Half width of Student's interval, the factor by which passes widen one of documents alone, and the p-value that the mean is 0."""

    half: float
    widening: float
    p_value: float


def _of_batches(
    groups: Sequence[Sequence[int]], gains: dict[int, np.float64], before: Repeats, after: Repeats, level: float
) -> tuple[float, float]:
    """(half width, p-value) with each group of documents as one observation that weighs as much as its documents."""
    gain = np.array([np.mean([gains[document] for document in group]) for group in groups])
    weights = np.array([len(group) for group in groups]) / len(gains)
    spread = _drift(gain, weights, [(_joined(before, group), _joined(after, group)) for group in groups], level)
    return spread.half, spread.p_value


def _joined(costs: Repeats, group: Sequence[int]) -> dict[int, float]:
    """Per repeat: mean cost of the group's documents, where it has all of them."""
    common = set.intersection(*(set(costs[document]) for document in group))
    return {repeat: float(np.mean([costs[document][repeat] for document in group])) for repeat in sorted(common)}


def _drift(gain: Floats, weights: Floats, costs: Sequence[tuple[dict[int, float], dict[int, float]]], level: float) -> _Spread:
    """The spread of the weighted mean of ``gain``, one entry per document (or batch).

    Passes and documents are crossed random effects; their variances add, with Satterthwaite's degrees of freedom.
    """
    from scipy.stats import t

    n, mean = len(gain), float(weights @ gain)
    documents, passes, pass_df = max(float((weights**2 * (gain - mean) ** 2).sum()) * n / (n - 1), 1e-18), 0.0, 1
    common = [sorted(before.keys() & after.keys()) for before, after in costs]
    full = max(common, key=len)
    rows = [[before[r] - after[r] for r in full] for (before, after), repeats in zip(costs, common, strict=True) if repeats == full]
    if len(full) > 1 and len(rows) > 1:
        table = np.array(rows)
        within = float((table - table.mean(0)).var(axis=1, ddof=1).mean())
        passes, pass_df = max(0.0, (float(table.mean(0).var(ddof=1)) - within / len(rows)) / len(full)), len(full) - 1
    total = documents + passes
    freedom = total**2 / (documents**2 / (n - 1) + passes**2 / pass_df)
    quantile = float(t.ppf(0.5 + level / 2, freedom))
    widening = math.sqrt(total / documents) * quantile / float(t.ppf(0.5 + level / 2, n - 1))
    return _Spread(quantile * math.sqrt(total), widening, float(2 * t.sf(abs(mean) / math.sqrt(total), freedom)))


def _bootstrap(pairs: Pairs, draws: int, seed: int) -> Floats:
    """[draws] means over resampled documents of (mean of the second side - mean of the first), repeats resampled too."""
    rng = np.random.default_rng(seed)
    sides = [_padded([pair[side] for pair in pairs]) for side in (0, 1)]
    chunks = list(_chunks(draws, max(1, 2_000_000 // (len(pairs) * sum(values.shape[1] for values, _ in sides)))))
    means: list[Floats] = []
    for size in chunks:
        chosen = rng.integers(len(pairs), size=(size, len(pairs)))
        first, second = (_nested_mean(values, counts, chosen, rng) for values, counts in sides)
        means.append((second - first).mean(axis=1))
    return np.concatenate(means)


def _nested_mean(values: Floats, counts: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """[draws, documents] mean of the repeats resampled within each chosen document."""
    width = values.shape[1]
    if width == 1:
        return values[chosen, 0]
    drawn = (rng.random((*chosen.shape, width)) * counts[chosen][..., None]).astype(np.int64)
    used = np.arange(width) < counts[chosen][..., None]
    return (values[chosen[..., None], drawn] * used).sum(-1) / counts[chosen]


def _padded(rows: Sequence[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    counts = np.array([len(row) for row in rows])
    table = np.zeros((len(rows), int(counts.max())))
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table, counts


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _percentiles(draws: Floats, documents: int, level: float) -> tuple[float, float]:
    """Expanded percentile interval: plain percentiles are too narrow in small samples (Hesterberg 2015)."""
    from scipy.stats import norm, t

    tail = float(norm.cdf(math.sqrt(documents / (documents - 1)) * t.ppf(0.5 - level / 2, documents - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
