"""Verdicts on runs whose truth is known: false alarms, planted slow-downs, planted losses."""

from __future__ import annotations

import numpy as np
import pytest

from harness.statistics.paired import documents_to_decide
from harness.statistics.verdict import Verdict, adjust, rank, speed_text, verdict
from tests.synthetic_runs import Fake, fake_samples

BASE = Fake(documents=64, repeats=3)


def against_base(base_accuracy: float = BASE.accuracy, **changes: object) -> Verdict:
    other = {**BASE.__dict__, "method": "other", **changes}
    base = Fake(
        **{
            **BASE.__dict__,
            "documents": other["documents"],
            "repeats": other["repeats"],
            "accuracy": base_accuracy,
        }
    )
    return verdict(fake_samples(base), fake_samples(Fake(**other)), draws=1000)


def test_text_of_a_clear_win() -> None:
    text = against_base(documents=1000, repeats=1, second_per_token=0.01 / 3.1, disagreement=0.0).text
    assert text == "3.1x [3.1, 3.1]; accuracy non-inferior at 3 pp: yes"


def test_twenty_identical_comparisons_raise_at_most_two_false_alarms() -> None:
    """Only the noise differs, a tenth of the time per sample; counted on speed and accuracy separately."""
    results = [
        verdict(
            fake_samples(BASE),
            fake_samples(Fake("vanilla", documents=64, repeats=3, seed=seed, timing_noise=0.1)),
            draws=500,
        )
        for seed in range(1, 21)
    ]
    assert sum(one.speed != "no difference" for one in results) <= 2
    assert sum(one.accuracy_change != "no difference" for one in results) <= 2


def test_false_alarm_rate_over_many_identical_comparisons() -> None:
    fakes = [Fake("vanilla", documents=24, seed=seed, timing_noise=0.2) for seed in range(1, 151)]
    base = fake_samples(Fake(documents=24, timing_noise=0.2))
    alarms = [verdict(base, fake_samples(fake), draws=300).speed != "no difference" for fake in fakes]
    assert np.mean(alarms) <= 0.1


def test_a_planted_slowdown_is_detected() -> None:
    result = against_base(second_per_token=0.013, timing_noise=0.1)
    assert result.speed == "slower"
    assert result.speedup.low is not None
    assert result.speedup.high is not None
    assert result.speedup.low <= 1 / 1.3 <= result.speedup.high
    assert result.speed_documents_needed is not None
    assert result.speed_documents_needed < 20
    assert "slower" in result.text


def test_a_planted_loss_of_eight_points_is_detected() -> None:
    few, many = (against_base(documents=n, repeats=1, accuracy=0.62, disagreement=0.02) for n in (64, 1500))
    assert few.non_inferiority is not None
    assert few.non_inferiority.decision == "not enough samples"
    assert few.non_inferiority.documents_needed is not None
    assert "needed" in few.text
    assert many.non_inferiority is not None
    assert many.non_inferiority.decision == "no"
    assert many.accuracy_change == "worse"
    assert "non-inferior at 3 pp: no (worse by" in many.text


@pytest.mark.parametrize(
    ("factor", "flag"), [(0.6, "shorter answers"), (1.4, "longer answers"), (1.05, None)]
)
def test_a_speed_verdict_on_different_answers_is_void(factor: float, flag: str | None) -> None:
    result = against_base(length_factor=factor, second_per_token=0.005)
    assert result.flag == flag
    assert result.speed == ("void" if flag else "faster")
    assert (f"void: {flag}" in result.text) == bool(flag)


def test_a_difference_within_the_clock_noise_is_none() -> None:
    result = against_base(second_per_token=0.0099, timing_noise=0.0001, repeats=1)
    assert result.speedup.low is not None
    assert result.speedup.low > 1
    assert result.speed == "no difference"


def test_documents_left_out_are_named() -> None:
    base, other = fake_samples(BASE), fake_samples(Fake("other", documents=64, repeats=3))
    other = [sample.model_copy(update={"useful": 0}) if sample.doc_id < 5 else sample for sample in other]
    assert "(5 of 64 documents without useful tokens left out)" in verdict(base, other, draws=200).text


def test_nothing_to_compare_is_said() -> None:
    other = [sample.model_copy(update={"useful": None, "correct": None}) for sample in fake_samples(BASE)]
    assert (
        verdict(fake_samples(BASE), other).text
        == "speed unknown (no document with useful tokens on both sides); accuracy unknown"
    )


def test_holm_takes_back_a_claim_that_one_of_many_methods_makes() -> None:
    claim = against_base(documents=1500, repeats=1, accuracy=0.62)
    assert claim.accuracy_p is not None
    barely = Verdict(claim.speedup, 1.0, claim.accuracy, claim.non_inferiority, claim.speed_p, 0.03)
    idle = Verdict(claim.speedup, 1.0, claim.accuracy, claim.non_inferiority, None, 0.8)
    adjusted = adjust([barely, idle, idle])
    assert barely.accuracy_change == "worse"
    assert adjusted[0].accuracy_p == pytest.approx(0.09)
    assert adjusted[0].accuracy_change == "no difference"
    assert adjusted[1].speed_p is None


def test_a_speedup_of_few_problems_is_no_verdict() -> None:
    few = against_base(documents=2, repeats=1, second_per_token=0.01 / 9.2)
    assert few.speed == "not enough samples"
    assert few.text.startswith("9.1x not enough samples (2 problems; at least 10 for an interval);")
    assert "[" not in few.text
    assert against_base(documents=10, repeats=1, second_per_token=0.01 / 9.2).speed == "faster"


def test_no_number_of_problems_beyond_reach_is_named() -> None:
    close = against_base(documents=200, repeats=1, accuracy=0.672, disagreement=0.02)
    assert close.non_inferiority is not None
    assert close.non_inferiority.documents_needed is None or close.non_inferiority.documents_needed <= 10_000
    found = documents_to_decide(-0.029, 0.1, 0.03)
    assert found is None, "881,557 documents decide nothing"


def test_accuracy_near_zero_on_both_sides_is_no_verdict() -> None:
    result = against_base(documents=1000, repeats=1, base_accuracy=0.02, accuracy=0.02, disagreement=0.0)
    assert result.accuracy_change == "near zero"
    assert result.text.endswith("; no accuracy verdict: below 5% on both sides")


def test_documents_left_out_are_told_in_short() -> None:
    base, other = fake_samples(BASE), fake_samples(Fake("other", documents=64, repeats=3))
    other = [sample.model_copy(update={"useful": 0}) if sample.doc_id < 5 else sample for sample in other]
    assert speed_text(verdict(base, other, draws=200)) == "1.00x [0.99, 1.02] (5 left out)"


def test_order_is_by_verdict() -> None:
    """A fast method that ruins its answers stands below every one that does not, however fast."""
    ruined = against_base(documents=1500, repeats=1, accuracy=0.38, second_per_token=0.001)
    kept = against_base(documents=1500, repeats=1, disagreement=0.0, second_per_token=0.009)
    open_ = against_base(documents=40, repeats=1, second_per_token=0.002)
    assert [rank(one) for one in (kept, None, open_, ruined)] == [0, 0, 1, 2]
