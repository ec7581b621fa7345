"""Statistics over stored samples: summaries here, paired comparisons in ``harness.statistics.paired``.

Only the standard library and numpy are loaded at import, because the run engine needs nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np

from harness.records.schema import Sample, Summary
from harness.statistics.batches import clusters


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

    A sample that ended in an error gave no answer and counts as not solved: leaving it out would reward a
    method for failing on hard prompts. A finished sample that was never graded is unknown and left out.
    """
    if sample.correct is not None:
        return sample.correct
    return None if sample.status == "ok" else False


def outcomes(samples: Iterable[Sample]) -> dict[int, list[bool]]:
    """Per document: whether each of its repeats is solved. Ungraded documents are absent; all of them if
    nothing was graded.
    """
    solved_by_document: dict[int, list[bool]] = defaultdict(list)
    any_graded = False
    for sample in samples:
        any_graded |= sample.correct is not None
        solved = graded(sample)
        if solved is not None:
            solved_by_document[sample.doc_id].append(solved)
    return dict(sorted(solved_by_document.items())) if any_graded else {}


def pass_rates(samples: Iterable[Sample]) -> dict[int, float]:
    """Per document: share of its repeats that are solved; documents as in ``outcomes``."""
    return {document: sum(values) / len(values) for document, values in outcomes(samples).items()}


def summarise(samples: Sequence[Sample]) -> Summary:
    """Figures of a run. Every field that no sample knows is None.

    Rates (``tps``, ``tps_committed``, ``tpf``, ``work``) are ratios of sums over all samples: an errored
    sample costs what it cost and delivers the tokens it is known to have delivered, else none. Means and
    percentiles are over finished samples. The Wilson interval counts documents, not repeats, because repeats
    of one prompt are not independent.
    """
    finished = [sample for sample in samples if sample.status == "ok"]
    rates = pass_rates(samples)
    low, high = wilson(sum(rates.values()), len(rates)) if rates else (None, None)
    useful_share, tokens_per_position = (
        _rate(samples, "useful", "committed"),
        _rate(samples, "useful", "positions"),
    )
    latency = _known(finished, "latency_s")
    return Summary(
        samples=len(samples),
        errors=len(samples) - len(finished),
        pass_at_1=sum(rates.values()) / len(rates) if rates else None,
        pass_at_1_low=low,
        pass_at_1_high=high,
        tps=_rate(samples, "useful", "time_s"),
        tps_committed=_rate(samples, "committed", "time_s"),
        tpf=_rate(samples, "useful", "nfe"),
        nfe=_mean(_known(finished, "nfe")),
        work=1 / tokens_per_position if tokens_per_position else None,
        useful=_mean(_known(finished, "useful")),
        output_entropy=_mean([value for sample in finished if (value := token_entropy(sample)) is not None]),
        waste=None if useful_share is None else 1 - useful_share,
        latency_p50=_percentile(latency, 50),
        latency_p90=_percentile(latency, 90),
        latency_p99=_percentile(latency, 99),
        first_block_p50=_percentile(_known(finished, "first_block_s"), 50),
        time_s=sum(_known(samples, "time_s")),
        forward_share=_rate(finished, "forward_s", "time_s"),
        select_share=_rate(finished, "select_s", "time_s"),
        peak_memory_bytes=_most(samples, "peak_memory_bytes"),
        call_memory_bytes=_most(samples, "call_memory_bytes"),
    )


def tps_interval(
    samples: Sequence[Sample], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Bootstrap interval of tokens per second over documents (repeats stay with their document); None below
    two of them.

    Documents whose rows shared a clock are drawn together.
    """
    totals: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for sample in samples:
        if sample.time_s is not None and (sample.useful is not None or sample.status != "ok"):
            totals[sample.doc_id][0] += sample.useful or 0
            totals[sample.doc_id][1] += sample.time_s
    table = np.array(
        [
            np.sum([totals[document] for document in group], axis=0)
            for group in clusters([samples], list(totals))
        ]
    )
    if len(table) < 2 or not table[:, 1].all():
        return None
    chosen = np.random.default_rng(seed).integers(len(table), size=(draws, len(table)))
    useful, time_s = table[:, 0][chosen].sum(axis=1), table[:, 1][chosen].sum(axis=1)
    low, high = np.quantile(useful / time_s, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def token_entropy(sample: Sample) -> float | None:
    """Entropy (nats) of the histogram of an answer's useful ids: how varied the answer is, at most log of its
    length.

    None for an answer without useful ids, and for one in several blocks, whose useful ids are not the leading
    ones. Generative quality at few steps is only meaningful beside it (Sahoo et al. 2025, section 5).
    """
    if not sample.useful or sample.blocks:
        return None
    shares = np.unique(sample.output_ids[: sample.useful], return_counts=True)[1] / sample.useful
    return float(-(shares * np.log(shares)).sum())


def _known(samples: Sequence[Sample], name: str) -> list[float]:
    values = (getattr(sample, name) for sample in samples)
    return [value for value in values if value is not None]


def _rate(samples: Sequence[Sample], top: str, bottom: str) -> float | None:
    """Ratio of sums of two fields; None if no sample knows both or the denominator is 0."""
    pairs = [(getattr(sample, top), getattr(sample, bottom), sample.status) for sample in samples]
    paid = [
        (gain, cost)
        for gain, cost, status in pairs
        if cost is not None and (gain is not None or status != "ok")
    ]
    total = sum(cost for _, cost in paid)
    if total == 0 or all(gain is None for gain, _ in paid):
        return None
    return sum(gain or 0 for gain, _ in paid) / total


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _most(samples: Sequence[Sample], name: str) -> int | None:
    return max(map(int, _known(samples, name)), default=None)


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
