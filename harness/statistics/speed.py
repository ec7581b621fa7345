"""Paired speed-up of two runs over the same documents: per useful token, with the spread of documents,
batches and passes.

The document is the unit (the batch, where rows shared a clock); repeats are nested in it. scipy is loaded
only when an interval is asked for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from harness.records.schema import Sample
from harness.statistics.batches import clusters
from harness.statistics.paired import LARGEST_SAMPLE, Interval, quantiles
from harness.statistics.resampling import Floats, bootstrap, percentiles
from harness.statistics.spread import drift

Repeats = dict[int, dict[int, float]]
"""Per document and repeat: log of the cost per useful token."""
Cost = Literal["time_s", "nfe"]
"""What a useful token costs: seconds, or forward passes."""


def speedup(
    baseline: Sequence[Sample],
    other: Sequence[Sample],
    *,
    cost: Cost = "time_s",
    draws: int = 4000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """exp(mean over documents of log(baseline's seconds per useful token / other's)): above 1 means ``other``
    is faster.

    With ``cost`` "nfe" it is the ratio of tokens per forward pass, which no clock can disturb. Where rows
    shared a clock the batches are the sample, and the interval is Student's: batches are few, and percentiles
    of few resampled values are too narrow.

    A document is left out, and counted, when either side has no repeat with useful tokens and a time.
    Bootstrap over documents with repeats nested. A slow spell of the machine hits a whole pass (one repeat of
    all documents), which resampling documents cannot see; with two or more passes its size is measured and
    the interval widened to cover it.
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
        low, high = percentiles(bootstrap(pairs, draws, seed), len(pairs), level)
        even = np.full(len(gain), 1 / len(gain))
        spread = drift(gain, even, [(before[document], after[document]) for document in usable], level)
        low, high, p_value = (
            estimate + (low - estimate) * spread.widening,
            estimate + (high - estimate) * spread.widening,
            spread.p_value,
        )
    return Interval(math.exp(estimate), math.exp(low), math.exp(high), len(pairs), left_out, p_value)


def documents_to_detect(ratio: Interval, level: float = 0.95) -> int | None:
    """Documents after which a speed-up as large as the estimate excludes 1 with 80% power; None: unknown or
    beyond LARGEST_SAMPLE.
    """
    if (
        ratio.estimate is None
        or ratio.low is None
        or ratio.high is None
        or abs(math.log(ratio.estimate)) < 1e-9
    ):
        return None
    z, _ = quantiles(level)
    error = (math.log(ratio.high) - math.log(ratio.low)) / (2 * z)
    needed = ratio.documents * (sum(quantiles(level)) * error / math.log(ratio.estimate)) ** 2
    return max(2, math.ceil(needed)) if needed <= LARGEST_SAMPLE else None


def _log_costs(samples: Iterable[Sample], cost: Cost) -> Repeats:
    """Per document and repeat: log of the cost per useful token; a repeat without useful tokens or cost is
    absent.
    """
    costs: dict[int, dict[int, float]] = defaultdict(dict)
    for sample in samples:
        repeats = costs[sample.doc_id]
        if sample.useful and (paid := getattr(sample, cost)):
            repeats[sample.repeat] = math.log(paid / sample.useful)
    return dict(costs)


def _values(repeats: dict[int, float]) -> Floats:
    return np.array([repeats[repeat] for repeat in sorted(repeats)])


def _of_batches(
    groups: Sequence[Sequence[int]],
    gains: dict[int, np.float64],
    before: Repeats,
    after: Repeats,
    level: float,
) -> tuple[float, float]:
    """(half width, p-value) with each group of documents as one observation that weighs as much as its
    documents.
    """
    gain = np.array([np.mean([gains[document] for document in group]) for group in groups])
    weights = np.array([len(group) for group in groups]) / len(gains)
    spread = drift(
        gain, weights, [(_joined(before, group), _joined(after, group)) for group in groups], level
    )
    return spread.half, spread.p_value


def _joined(costs: Repeats, group: Sequence[int]) -> dict[int, float]:
    """Per repeat: mean cost of the group's documents, where it has all of them."""
    common = set.intersection(*(set(costs[document]) for document in group))
    return {
        repeat: float(np.mean([costs[document][repeat] for document in group])) for repeat in sorted(common)
    }
