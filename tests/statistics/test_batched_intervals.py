"""Intervals where the rows of a batch share one clock."""

from __future__ import annotations

import numpy as np
import pytest

from harness.measuring.protocol import PROTOCOLS
from harness.statistics.speed import speedup
from harness.statistics.summary import tps_interval
from tests.tools.coverage_check import LEAST, coverage, run_of


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_method_against_itself_is_covered(batch_size: int) -> None:
    assert coverage(batch_size, 200, draws=400) >= LEAST


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_ragged_batches_and_several_passes_are_covered(batch_size: int) -> None:
    assert coverage(batch_size, 100, documents=100, passes=3, draws=200) >= LEAST


def test_one_batch_gives_no_interval() -> None:
    rng = np.random.default_rng(0)
    one, two = (run_of(rng, [20, 30, 40, 50], 4, 1, 0.05, 0.0) for _ in range(2))
    ratio = speedup(one, two)
    assert ratio.estimate is not None
    assert (ratio.low, ratio.high) == (None, None)


def test_forwards_have_no_clock_to_share() -> None:
    rng = np.random.default_rng(0)
    one, two = (run_of(rng, [20, 30, 40, 50] * 8, 4, 1, 0.05, 0.0) for _ in range(2))
    apart = [[sample.model_copy(update={"batch": None}) for sample in run] for run in (one, two)]
    assert speedup(one, two, cost="nfe") == speedup(*apart, cost="nfe")


def test_tokens_per_second_are_resampled_by_batches() -> None:
    rng, held = np.random.default_rng(3), 0
    for seed in range(100):
        lengths = [40] * 256
        interval = tps_interval(run_of(rng, lengths, 16, 1, 0.1, 0.0), draws=400, seed=seed)
        assert interval is not None
        held += interval[0] <= 16 * 100 / np.exp(0.1**2 / 2) <= interval[1]
    assert held >= 85, "documents alone: below 40"


def test_batches_of_all_passes_nest() -> None:
    """Whole batches are timed again, so that no pass joins documents of two batches."""
    documents = list(range(100, 200))
    keys = PROTOCOLS["standard"].keys(documents, batch_size=16)
    again = [document for document, repeat in keys if repeat == 1]
    assert again == [*range(100, 116), *range(148, 164)]
    assert PROTOCOLS["standard"].keys(documents, batch_size=1) == PROTOCOLS["standard"].keys(documents)
