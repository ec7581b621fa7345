"""Paired statistics against closed forms and simulations with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.records.schema import Sample
from harness.statistics.paired import (
    documents_to_decide,
    holm,
    mcnemar_exact,
    non_inferiority,
    paired_bootstrap_difference,
    tango,
)
from harness.statistics.speed import speedup
from tests.synthetic_runs import Fake, fake_samples

TEMPLATE = fake_samples(Fake(documents=1))[0].model_copy(update={"batch": None})


def timed(log_cost: np.ndarray) -> list[Sample]:
    """Samples whose log(seconds per useful token) is the [documents, repeats] array."""
    cells = [
        (document, repeat) for document in range(log_cost.shape[0]) for repeat in range(log_cost.shape[1])
    ]
    return [
        TEMPLATE.model_copy(
            update={"doc_id": d, "repeat": r, "useful": 10, "time_s": 10 * math.exp(log_cost[d, r])}
        )
        for d, r in cells
    ]


def solved(correct: np.ndarray) -> list[Sample]:
    """Samples with the outcomes of the [documents, repeats] array."""
    cells = [(document, repeat) for document in range(correct.shape[0]) for repeat in range(correct.shape[1])]
    return [
        TEMPLATE.model_copy(update={"doc_id": d, "repeat": r, "correct": bool(correct[d, r])})
        for d, r in cells
    ]


def planted(
    rng: np.random.Generator, documents: int, gain: float, loss: float
) -> tuple[list[Sample], list[Sample]]:
    """Two runs that differ on about gain + loss of the documents."""
    u, base = rng.random(documents), rng.random(documents) < 0.5
    before = np.where(u < gain, False, np.where(u < gain + loss, True, base))
    after = np.where(u < gain, True, np.where(u < gain + loss, False, base))
    return solved(before[:, None]), solved(after[:, None])


def test_tokens_per_forward_are_compared_by_forwards_alone() -> None:
    rng = np.random.default_rng(0)
    before, after = timed(rng.normal(size=(40, 1))), timed(rng.normal(size=(40, 1)))
    before = [sample.model_copy(update={"nfe": 12, "useful": 20}) for sample in before]
    after = [
        sample.model_copy(update={"nfe": 8 if sample.doc_id % 2 else 6, "useful": 20}) for sample in after
    ]
    ratio = speedup(before, after, cost="nfe")
    assert ratio.estimate == pytest.approx((12 / 8 * 12 / 6) ** 0.5)
    assert ratio.low is not None
    assert ratio.estimate is not None
    assert ratio.high is not None
    assert 1.5 < ratio.low < ratio.estimate < ratio.high < 2.0


@pytest.mark.parametrize(
    ("gains", "losses", "expected"), [(0, 0, 1.0), (1, 9, 22 / 1024), (0, 5, 2 / 32), (4, 4, 1.0)]
)
def test_mcnemar_closed_form(gains: int, losses: int, expected: float) -> None:
    assert mcnemar_exact(gains, losses) == pytest.approx(expected)


def test_holm_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(("gains", "losses", "n"), [(3, 9, 60), (1, 2, 30), (12, 40, 256), (0, 4, 50)])
def test_tango_bounds_have_the_right_score(gains: int, losses: int, n: int) -> None:
    """At each bound the score, with the constrained likelihood maximised numerically, is the normal
    quantile.
    """
    for bound, sign in zip(tango(gains, losses, n), (1, -1), strict=True):

        def negative_log_likelihood(loss: float, delta: float = bound) -> float:
            gain, neither = loss + delta, 1 - 2 * loss - delta
            if min(gain, neither) <= 0:
                return math.inf
            return -(
                gains * math.log(gain) + losses * math.log(loss) + (n - gains - losses) * math.log(neither)
            )

        region = np.linspace(max(1e-9, -bound + 1e-9), (1 - bound) / 2 - 1e-9, 200_001)
        loss = float(min(region, key=negative_log_likelihood))
        score = (gains - losses - n * bound) / math.sqrt(n * (2 * loss + bound - bound * bound))
        assert score == pytest.approx(sign * 1.959964, abs=2e-3)


def test_tango_without_discordant_documents_is_not_certain() -> None:
    low, high = tango(0, 0, 32)
    expected = 1.959964**2 / (32 + 1.959964**2)
    assert (low, high) == pytest.approx((-expected, expected), abs=1e-6)
    assert tango(0, 5, 5)[0] == -1
    assert tango(5, 0, 5)[1] == 1


@pytest.mark.parametrize("documents", [40, 200])
def test_tango_covers_the_truth(documents: int) -> None:
    rng, hits, rounds = np.random.default_rng(5), 0, 600
    for gains, losses, _ in rng.multinomial(documents, [0.04, 0.09, 0.87], size=rounds):
        low, high = tango(gains, losses, documents)
        hits += low <= -0.05 <= high
    assert 0.925 <= hits / rounds <= 0.985


def test_bootstrap_difference_matches_the_normal_interval() -> None:
    before, after = planted(np.random.default_rng(0), 1000, 0.05, 0.1)
    interval = paired_bootstrap_difference(before, after, draws=4000)
    change = np.array([b.correct for b in after], float) - np.array([a.correct for a in before], float)
    half = 1.96 * change.std(ddof=1) / math.sqrt(1000)
    assert interval.estimate == pytest.approx(change.mean())
    assert (interval.low, interval.high) == pytest.approx(
        (change.mean() - half, change.mean() + half), abs=0.002
    )


def test_bootstrap_difference_covers_the_truth() -> None:
    hits, rounds = 0, 300
    for seed in range(rounds):
        interval = paired_bootstrap_difference(
            *planted(np.random.default_rng(seed), 80, 0.06, 0.14), draws=600, seed=seed
        )
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= -0.08 <= interval.high
    assert 0.91 <= hits / rounds <= 0.985


def test_intervals_are_seeded() -> None:
    before, after = planted(np.random.default_rng(3), 60, 0.1, 0.1)
    assert paired_bootstrap_difference(before, after, seed=4) == paired_bootstrap_difference(
        before, after, seed=4
    )


def test_speedup_is_exact_without_noise() -> None:
    cost = np.random.default_rng(0).normal(size=(20, 1))
    ratio = speedup(timed(cost), timed(cost - math.log(2)))
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert (ratio.documents, ratio.left_out) == (20, 0)


def test_speedup_leaves_out_documents_without_useful_tokens_and_counts_them() -> None:
    before, after = timed(np.zeros((10, 1))), timed(np.full((12, 1), -1.0))
    after[3] = after[3].model_copy(update={"useful": 0})
    before[5] = before[5].model_copy(update={"useful": None})
    after[7] = after[7].model_copy(update={"status": "error", "time_s": None})
    ratio = speedup(before, after)
    assert (ratio.estimate, ratio.documents, ratio.left_out) == (pytest.approx(math.e), 7, 3)


@pytest.mark.parametrize("usable", [0, 1])
def test_speedup_of_too_few_documents_has_no_interval(usable: int) -> None:
    ratio = speedup(timed(np.zeros((usable, 1))), timed(np.zeros((usable, 1))))
    assert (ratio.estimate, ratio.low, ratio.high) == (1.0 if usable else None, None, None)


def test_nested_repeats_may_differ_in_number() -> None:
    cost = np.random.default_rng(1).normal(0, 0.1, (30, 3))
    uneven = [sample for sample in timed(cost) if sample.repeat == 0 or sample.doc_id < 10]
    ratio = speedup(timed(cost[:, :1]), uneven)
    expected = cost[:10, 0] - cost[:10].mean(1)
    assert ratio.documents == 30
    assert ratio.estimate == pytest.approx(math.exp(expected.sum() / 30))


@pytest.mark.parametrize(
    ("repeats", "document_noise", "drift"), [(1, 0.1, 0.0), (3, 0.0, 0.0), (3, 0.0, 0.02), (3, 0.05, 0.02)]
)
def test_speedup_covers_the_truth_even_when_the_machine_drifts(
    repeats: int, document_noise: float, drift: float
) -> None:
    """Each pass of each run has its own slow-down (drift): resampling documents alone would call it a win."""
    hits, rounds, rng = 0, 150, np.random.default_rng(11)
    for seed in range(rounds):
        base = rng.normal(0, 0.3, (32, 1))
        runs = [
            base + rng.normal(0, 0.02, (32, repeats)) + rng.normal(0, drift, (1, repeats)) for _ in range(2)
        ]
        ratio = speedup(
            timed(runs[0]),
            timed(runs[1] - math.log(1.3) + rng.normal(0, document_noise, (32, 1))),
            draws=400,
            seed=seed,
        )
        assert ratio.low is not None
        assert ratio.high is not None
        hits += ratio.low <= 1.3 <= ratio.high
    assert hits / rounds >= 0.9


def test_non_inferiority_has_three_answers() -> None:
    assert non_inferiority(10, 10, 1319).decision == "yes"
    assert non_inferiority(5, 60, 500).decision == "no"
    small = non_inferiority(1, 1, 32)
    assert small.decision == "not enough samples"
    assert small.documents_needed is not None
    assert 500 < small.documents_needed < 1000
    assert non_inferiority(1, 2, 32).documents_needed is None, (
        "a difference as large as the margin: no affordable number would do"
    )


def test_agreement_on_few_documents_is_not_proof() -> None:
    """A plain bootstrap of identical answers has no width and would say yes after three documents."""
    assert non_inferiority(0, 0, 120).decision == "not enough samples"
    assert non_inferiority(0, 0, 130).decision == "yes"


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.02, 0.10), (0.03, 0.04)])
def test_the_sample_size_named_decides_about_four_times_in_five(gain: float, loss: float) -> None:
    needed = documents_to_decide(gain - loss, gain + loss, 0.03)
    assert needed is not None
    counts = np.random.default_rng(2).multinomial(needed, [gain, loss, 1 - gain - loss], size=400)
    decided = sum(
        non_inferiority(gains, losses, needed).decision != "not enough samples" for gains, losses, _ in counts
    )
    assert 0.7 <= decided / 400 <= 0.9


def test_no_sample_size_decides_a_loss_of_exactly_the_margin() -> None:
    assert documents_to_decide(-0.03, 0.1, 0.03) is None


@pytest.mark.parametrize(("margin", "documents"), [(0.0, 10), (1.0, 10), (0.03, 0)])
def test_non_inferiority_refuses_nonsense(margin: float, documents: int) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(0, 0, documents, margin)
