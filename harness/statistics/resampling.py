"""Resampling of documents with their repeats nested in them; scipy is loaded only when an interval is asked
for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[Floats, Floats]]


def bootstrap(pairs: Pairs, draws: int, seed: int) -> Floats:
    """[draws] means over resampled documents of (mean of the second side - mean of the first), repeats
    resampled too.
    """
    rng = np.random.default_rng(seed)
    sides = [_padded([pair[side] for pair in pairs]) for side in (0, 1)]
    chunks = list(
        _chunks(draws, max(1, 2_000_000 // (len(pairs) * sum(values.shape[1] for values, _ in sides))))
    )
    means: list[Floats] = []
    for size in chunks:
        chosen = rng.integers(len(pairs), size=(size, len(pairs)))
        first, second = (_nested_mean(values, counts, chosen, rng) for values, counts in sides)
        means.append((second - first).mean(axis=1))
    return np.concatenate(means)


def _nested_mean(
    values: Floats, counts: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator
) -> Floats:
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


def percentiles(draws: Floats, documents: int, level: float) -> tuple[float, float]:
    """Expanded percentile interval: plain percentiles are too narrow in small samples (Hesterberg 2015)."""
    from scipy.stats import norm, t

    tail = float(norm.cdf(math.sqrt(documents / (documents - 1)) * t.ppf(0.5 - level / 2, documents - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
