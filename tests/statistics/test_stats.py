"""Summaries against numbers worked out by hand, and intervals against scipy."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from harness.statistics.summary import pass_rates, summarise, token_entropy, tps_interval, wilson
from tests.synthetic_runs import Fake, fake_samples


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (1, 7), (50, 164), (256, 256), (700, 1319)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_half_widths_of_the_usual_suites() -> None:
    widths = [(high - low) / 2 for low, high in (wilson(n / 2, n) for n in (164, 500, 1319))]
    assert widths == pytest.approx([0.076, 0.044, 0.027], abs=0.001)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_nonsense(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="wilson needs"):
        wilson(successes, n)


def test_rates_are_ratios_of_sums() -> None:
    first, second = fake_samples(Fake(documents=2))
    first = first.model_copy(
        update={"useful": 10, "committed": 20, "time_s": 1.0, "nfe": 5, "positions": 100, "correct": True}
    )
    second = second.model_copy(
        update={"useful": 90, "committed": 100, "time_s": 3.0, "nfe": 5, "positions": 300, "correct": False}
    )
    figures = summarise([first, second])
    assert (figures.tps, figures.tps_committed, figures.tpf, figures.work) == (25.0, 30.0, 10.0, 4.0)
    assert (figures.pass_at_1, figures.nfe, figures.useful) == (0.5, 5.0, 50.0)
    assert figures.waste == pytest.approx(1 - 100 / 120)


def test_an_error_costs_its_time_and_counts_as_unsolved() -> None:
    good, bad = fake_samples(Fake(documents=2))
    good = good.model_copy(update={"useful": 10, "time_s": 1.0, "correct": True})
    bad = bad.model_copy(
        update={
            "status": "timeout",
            "useful": None,
            "committed": None,
            "time_s": 4.0,
            "correct": None,
            "latency_s": None,
        }
    )
    figures = summarise([good, bad])
    assert (figures.errors, figures.tps, figures.pass_at_1, figures.time_s) == (1, 2.0, 0.5, 5.0)


def test_unknown_is_null_never_zero() -> None:
    unknown = dict.fromkeys(
        [
            "useful",
            "committed",
            "correct",
            "latency_s",
            "first_block_s",
            "forward_s",
            "select_s",
            "peak_memory_bytes",
        ]
    )
    figures = summarise([sample.model_copy(update=unknown) for sample in fake_samples(Fake(documents=3))])
    known = {name for name, value in figures.model_dump().items() if value is not None}
    assert known == {"samples", "errors", "nfe", "time_s"}
    assert {name for name, value in summarise([]).model_dump().items() if value is not None} == {
        "samples",
        "errors",
        "time_s",
    }


def test_repeats_do_not_narrow_the_accuracy_interval() -> None:
    once, thrice = (summarise(fake_samples(Fake(documents=40, repeats=repeats))) for repeats in (1, 3))
    assert (once.pass_at_1_low, once.pass_at_1_high) == (thrice.pass_at_1_low, thrice.pass_at_1_high)
    assert thrice.samples == 120


def test_pass_rates_average_repeats_and_skip_the_ungraded() -> None:
    samples = fake_samples(Fake(documents=2, repeats=2))
    samples = [
        sample.model_copy(update={"correct": correct})
        for sample, correct in zip(samples, [True, False, None, None], strict=True)
    ]
    assert pass_rates(samples) == {0: 0.5}


def test_tps_interval_covers_the_truth() -> None:
    hits = 0
    for seed in range(100):
        interval = tps_interval(fake_samples(Fake(documents=60, timing_noise=0.3, seed=seed)), draws=400)
        assert interval is not None
        # A log-normal time has mean exp(sigma^2 / 2) above its median.
        hits += interval[0] <= 100 / 1.046 <= interval[1]
    assert hits >= 87


def test_tps_interval_needs_two_documents() -> None:
    assert tps_interval(fake_samples(Fake(documents=1, repeats=3))) is None


def test_output_entropy_is_of_useful_tokens_within_an_answer() -> None:
    varied, same, empty = fake_samples(Fake(documents=3))
    varied = varied.model_copy(update={"output_ids": [5, 5, 6, 6, 0, 9], "useful": 4})
    same = same.model_copy(update={"output_ids": [7, 7, 0], "useful": 2})
    empty = empty.model_copy(update={"output_ids": [], "useful": 0})
    assert [token_entropy(sample) for sample in (varied, same, empty)] == [
        pytest.approx(math.log(2)),
        0.0,
        None,
    ]
    assert summarise([varied, same, empty]).output_entropy == pytest.approx(math.log(2) / 2)
    assert token_entropy(varied.model_copy(update={"blocks": [(0, 3), (3, 6)]})) is None
