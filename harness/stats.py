"""Statistics over stored samples: summaries here, paired comparisons in ``harness.paired``.

Only the standard library and numpy are loaded at import, because the run engine needs nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np

from harness.records import Sample, Summary


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of a proportion.

    ``successes`` may be fractional: with repeats it is the sum of per-document pass rates. ValueError unless
    0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def graded(sample: Sample) -> bool | None:
    """Whether a sample counts as solved; None: unknown.

    A sample that ended in an error gave no answer and counts as not solved: leaving it out would reward a method
    for failing on hard prompts. A finished sample that was never graded is unknown and left out.
    """
    if sample.correct is not None:
        return sample.correct
    return None if sample.status == "ok" else False


def pass_rates(samples: Iterable[Sample]) -> dict[int, float]:
    """Per document: share of its repeats that are solved. Ungraded documents are absent; all of them if nothing was graded."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    any_graded = False
    for sample in samples:
        any_graded |= sample.correct is not None
        solved = graded(sample)
        if solved is not None:
            outcomes[sample.doc_id].append(solved)
    return {doc: sum(values) / len(values) for doc, values in sorted(outcomes.items())} if any_graded else {}


def summarise(samples: Sequence[Sample]) -> Summary:
    """Figures of a run. Every field that no sample knows is None.

    Rates (``tps``, ``tps_committed``, ``tpf``, ``work``) are ratios of sums over all samples: an errored sample costs what
    it cost and delivers the tokens it is known to have delivered, else none. Means and percentiles are over finished samples. The
    Wilson interval counts documents, not repeats, because repeats of one prompt are not independent.
    """
    finished = [sample for sample in samples if sample.status == "ok"]
    rates = pass_rates(samples)
    low, high = wilson(sum(rates.values()), len(rates)) if rates else (None, None)
    counted = [sample for sample in samples if sample.useful is not None or sample.status != "ok"]
    known = any(sample.useful is not None for sample in counted)
    useful = sum(sample.useful or 0 for sample in counted) if known else None
    latency = [sample.latency_s for sample in finished if sample.latency_s is not None]
    first = [sample.first_block_s for sample in finished if sample.first_block_s is not None]
    memory = [sample.peak_memory_bytes for sample in samples if sample.peak_memory_bytes is not None]
    return Summary(
        samples=len(samples),
        errors=len(samples) - len(finished),
        pass_at_1=sum(rates.values()) / len(rates) if rates else None,
        pass_at_1_low=low,
        pass_at_1_high=high,
        tps=_ratio(useful, sum(sample.time_s for sample in counted)),
        tps_committed=_committed_rate(samples),
        tpf=_ratio(useful, sum(sample.nfe for sample in counted)),
        nfe=_mean([sample.nfe for sample in finished]),
        work=_ratio(sum(sample.positions for sample in counted), useful),
        useful=_mean([sample.useful for sample in finished if sample.useful is not None]),
        waste=_waste(samples),
        latency_p50=_percentile(latency, 50),
        latency_p90=_percentile(latency, 90),
        latency_p99=_percentile(latency, 99),
        first_block_p50=_percentile(first, 50),
        time_s=sum(sample.time_s for sample in samples),
        forward_share=_forward_share(samples),
        peak_memory_bytes=max(memory, default=None),
    )


def _committed_rate(samples: Sequence[Sample]) -> float | None:
    counted = [sample for sample in samples if sample.committed is not None or sample.status != "ok"]
    if all(sample.committed is None for sample in counted):
        return None
    return _ratio(sum(sample.committed or 0 for sample in counted), sum(sample.time_s for sample in counted))


def _waste(samples: Sequence[Sample]) -> float | None:
    pairs = [(sample.useful, sample.committed) for sample in samples if sample.useful is not None and sample.committed is not None]
    share = _ratio(sum(useful for useful, _ in pairs), sum(committed for _, committed in pairs))
    return None if share is None else 1 - share


def _forward_share(samples: Sequence[Sample]) -> float | None:
    timed = [(sample.forward_s, sample.time_s) for sample in samples if sample.forward_s is not None]
    return _ratio(sum(forward for forward, _ in timed), sum(total for _, total in timed))


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
