"""The one-line verdict on a run against its baseline: faster or not, how sure, and at what cost in
accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.records.schema import Sample
from harness.statistics.paired import (
    Interval,
    NonInferiority,
    changes,
    holm,
    non_inferiority,
    paired_bootstrap_difference,
)
from harness.statistics.speed import documents_to_detect, speedup
from harness.statistics.summary import pass_rates

SpeedWord = Literal["faster", "slower", "no difference", "not enough samples", "void", "unknown"]
AccuracyWord = Literal["better", "worse", "no difference", "near zero", "unknown"]

SIGNIFICANCE = 0.05
RESOLUTION = 1.02
"""Smallest speed ratio called a difference: warm-up ends at a coefficient of variation of 2%, so less is
within the clock's noise.
"""
LENGTH_RANGE = (0.9, 1.1)
"""Useful tokens per document relative to the baseline's; outside, time per token compares different
answers.
"""
FEWEST_DOCUMENTS = 10
"""Problems below which nothing is claimed about speed, and no interval shown: the spread of so few is itself
unknown.
"""
NEAR_ZERO = 0.05
"""pass@1 below which a model does not solve a suite: where both sides are below, their accuracies say nothing
about a decoder.
"""


@dataclass(frozen=True)
class Verdict:
    """A run against its baseline. ``length_ratio`` is useful tokens per shared document, other over baseline.

    ``speed_p`` and ``accuracy_p`` are two-sided, adjusted by Holm's method once ``adjust`` has seen the whole
    table. ``near_zero``: neither side solves NEAR_ZERO of the problems.
    """

    speedup: Interval
    length_ratio: float | None
    accuracy: Interval
    non_inferiority: NonInferiority | None
    speed_p: float | None
    accuracy_p: float | None
    near_zero: bool = False

    @property
    def flag(self) -> Literal["shorter answers", "longer answers"] | None:
        """Set when answers are too different in length for a speed verdict."""
        if self.length_ratio is None or LENGTH_RANGE[0] <= self.length_ratio <= LENGTH_RANGE[1]:
            return None
        return "shorter answers" if self.length_ratio < 1 else "longer answers"

    @property
    def speed(self) -> SpeedWord:
        """What may be claimed about speed."""
        ratio = self.speedup
        if ratio.estimate is None:
            return "unknown"
        if self.flag:
            return "void"
        if ratio.low is None or ratio.high is None or ratio.documents < FEWEST_DOCUMENTS:
            return "not enough samples"
        undecided = ratio.low <= 1 <= ratio.high or 1 / RESOLUTION < ratio.estimate < RESOLUTION
        if undecided or (self.speed_p is not None and self.speed_p > SIGNIFICANCE):
            return "no difference"
        return "faster" if ratio.estimate > 1 else "slower"

    @property
    def accuracy_change(self) -> AccuracyWord:
        """Whether accuracy differs at all (McNemar), whatever the margin."""
        if self.accuracy.estimate is None or self.accuracy_p is None:
            return "unknown"
        if self.near_zero:
            return "near zero"
        if self.accuracy_p > SIGNIFICANCE:
            return "no difference"
        return "better" if self.accuracy.estimate > 0 else "worse"

    @property
    def speed_documents_needed(self) -> int | None:
        """Documents that would separate a speed-up of this size from 1 with 80% power."""
        return documents_to_detect(self.speedup)

    @property
    def text(self) -> str:
        """For example ``3.1x [2.9, 3.3]; accuracy non-inferior at 3 pp: yes``."""
        return f"{self._speed_text()}; {self._accuracy_text()}"

    def _speed_text(self) -> str:
        ratio = self.speedup
        if ratio.estimate is None:
            return "speed unknown (no document with useful tokens on both sides)"
        text = times(ratio)
        if self.speed == "not enough samples":
            return (
                f"{text} not enough samples ({ratio.documents} problems; at least {FEWEST_DOCUMENTS} for an "
                "interval)" + self._left_out()
            )
        if self.flag and self.length_ratio is not None:
            text += f" void: {self.flag} ({self.length_ratio:.0%} of the baseline's useful tokens)"
        elif self.speed != "faster":
            text += f" {self.speed}"
        return text + self._left_out()

    def _left_out(self) -> str:
        ratio = self.speedup
        if not ratio.left_out:
            return ""
        return (
            f" ({ratio.left_out} of {ratio.left_out + ratio.documents} documents without useful tokens "
            "left out)"
        )

    def _accuracy_text(self) -> str:
        decided, estimate = self.non_inferiority, self.accuracy.estimate
        if decided is None or estimate is None:
            return "accuracy unknown"
        if self.near_zero:
            return f"no accuracy verdict: below {NEAR_ZERO:.0%} on both sides"
        text = f"accuracy non-inferior at {100 * decided.margin:g} pp: {decided.decision}"
        if self.accuracy_change in ("better", "worse"):
            text += f" ({self.accuracy_change} by {abs(100 * estimate):.1f} pp)"
        if decided.decision == "not enough samples":
            needed = decided.documents_needed
            text += (
                f" ({self.accuracy.documents} documents; "
                f"{f'about {needed:,} needed' if needed else 'no affordable number would decide'})"
            )
        return text


def verdict(
    baseline: Sequence[Sample],
    other: Sequence[Sample],
    *,
    margin: float = 0.03,
    draws: int = 4000,
    seed: int = 0,
) -> Verdict:
    """Compare two runs document by document; ``margin`` is the tolerated loss of pass@1 as a fraction."""
    ratio = speedup(baseline, other, draws=draws, seed=seed)
    difference = paired_bootstrap_difference(baseline, other, draws=draws, seed=seed)
    change = changes(baseline, other)
    decided = (
        non_inferiority(
            float(change[change > 0].sum()), float(-change[change < 0].sum()), len(change), margin
        )
        if len(change)
        else None
    )
    rates = [list(pass_rates(run).values()) for run in (baseline, other)]
    near_zero = all(rate and sum(rate) / len(rate) < NEAR_ZERO for rate in rates)
    return Verdict(
        ratio,
        _length_ratio(baseline, other),
        difference,
        decided,
        ratio.p_value,
        difference.p_value,
        near_zero,
    )


def rank(verdict: Verdict | None) -> int:
    """Place in the order of a table: 0 for the baseline and what is non-inferior to it, 1 where that is open,
    2 for what is worse.
    """
    if verdict is None or verdict.near_zero:
        return 0
    decided = verdict.non_inferiority
    return 1 if decided is None else {"yes": 0, "not enough samples": 1, "no": 2}[decided.decision]


def speed_text(verdict: Verdict) -> str:
    """The speed-up as a cell of a table: ``3.1x [2.9, 3.3] (5 left out)``."""
    left_out = verdict.speedup.left_out
    return times(verdict.speedup) + (f" ({left_out} left out)" if left_out else "")


def adjust(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Holm's correction over the methods of one table, for speed and for accuracy; unknown p-values stay
    unknown.
    """
    speeds = _holm_known([one.speed_p for one in verdicts])
    accuracies = _holm_known([one.accuracy_p for one in verdicts])
    return [
        replace(one, speed_p=speed, accuracy_p=accuracy)
        for one, speed, accuracy in zip(verdicts, speeds, accuracies, strict=True)
    ]


def times(ratio: Interval) -> str:
    """A speed-up with its interval: ``3.1x [2.9, 3.3]``; two decimals while they matter, no interval below
    FEWEST_DOCUMENTS.
    """
    if ratio.estimate is None:
        return ""
    digits = 2 if ratio.estimate < 2 else 1
    text = f"{ratio.estimate:.{digits}f}x"
    return (
        text
        if ratio.low is None or ratio.high is None or ratio.documents < FEWEST_DOCUMENTS
        else f"{text} [{ratio.low:.{digits}f}, {ratio.high:.{digits}f}]"
    )


def _holm_known(p_values: Sequence[float | None]) -> list[float | None]:
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _length_ratio(baseline: Sequence[Sample], other: Sequence[Sample]) -> float | None:
    before, after = _lengths(baseline), _lengths(other)
    shared = before.keys() & after.keys()
    total = sum(before[document] for document in shared)
    return sum(after[document] for document in shared) / total if total else None


def _lengths(samples: Sequence[Sample]) -> dict[int, float]:
    """Mean useful tokens per document over the repeats that know them."""
    totals: dict[int, tuple[int, int]] = {}
    for sample in samples:
        if sample.useful is not None:
            tokens, repeats = totals.get(sample.doc_id, (0, 0))
            totals[sample.doc_id] = (tokens + sample.useful, repeats + 1)
    return {document: tokens / repeats for document, (tokens, repeats) in totals.items()}
