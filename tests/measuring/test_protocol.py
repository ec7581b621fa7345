"""Timing protocol: when a shape is warm, which documents are timed again, in which order, and what repeats
show.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import pytest

from harness.measuring.protocol import (
    PROTOCOLS,
    ProtocolError,
    bucket,
    determinism,
    interleaved,
    protocol,
    timing_slice,
    variation,
)
from harness.records.schema import find_runs, read_run, read_samples
from tests.commands import bench
from tests.synthetic_runs import Fake, fake_samples

STANDARD = PROTOCOLS["standard"]


def runs_until_warm(times: list[float]) -> int:
    return next(n for n in range(len(times) + 1) if STANDARD.warm(times[:n]))


def test_variation_by_hand() -> None:
    assert variation([1.0, 1.0, 1.0]) == 0.0
    assert variation([1.0, 3.0]) == pytest.approx(2**0.5 / 2)
    assert variation([1.0]) == float("inf")


def test_warm_up_ends_when_steady() -> None:
    assert runs_until_warm([1.0] * 20) == 3, "never fewer than three"
    assert runs_until_warm([5.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == 7, (
        "five steady runs behind the slow ones"
    )
    assert runs_until_warm([1.0, 2.0] * 20) == 20, "gives up after twenty"
    assert PROTOCOLS["quick"].warm([1.0])
    assert not PROTOCOLS["quick"].warm([])


def test_warm_up_stops_early_on_small_noise_and_late_on_large() -> None:
    def mean_runs(noise: float) -> float:
        draws = [NormalDist(1.0, noise).samples(20, seed=seed) for seed in range(200)]
        return sum(map(runs_until_warm, draws)) / len(draws)

    assert mean_runs(0.005) < 3.1
    assert mean_runs(0.1) > 15


def test_keys_of_each_protocol() -> None:
    documents = list(range(100))
    assert PROTOCOLS["quick"].keys(documents) == [(k, 0) for k in documents]
    assert PROTOCOLS["quick"].keys([4, 7], repeats=2) == [(4, 0), (7, 0), (4, 1), (7, 1)]
    standard = STANDARD.keys(documents)
    assert standard[:100] == [(k, 0) for k in documents]
    timed = Counter(document for document, _ in standard)
    assert Counter(timed.values()) == {1: 68, 3: 32}
    assert len(set(standard)) == len(standard)
    assert Counter(Counter(document for document, _ in PROTOCOLS["publish"].keys(documents)).values()) == {
        3: 100
    }
    assert STANDARD.keys([1, 2], repeats=4) == [(d, r) for r in range(4) for d in (1, 2)], (
        "repeats of all count as passes"
    )


def test_slice_is_frozen_and_spread() -> None:
    chosen = timing_slice(range(256), 32)
    assert chosen == timing_slice(range(256), 32)
    assert (len(chosen), chosen[0], chosen[-1]) == (32, 0, 248)
    assert timing_slice([3, 5], 32) == [3, 5]
    assert timing_slice([3, 5], 0) == []


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 31, 32, 33, 64, 65)] == [1, 32, 32, 64, 64, 128]


def test_interleaving_is_a_b_b_a() -> None:
    assert [place for place, _ in interleaved([3, 3])] == [0, 1, 1, 0, 0, 1]
    assert list(interleaved([1, 3])) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert list(interleaved([])) == []


def test_interleaving_cancels_a_drift() -> None:
    """A machine that slows down steadily costs both queues the same, and one after another would not."""
    spent = [0.0, 0.0]
    for moment, (place, _) in enumerate(interleaved([50, 50])):
        spent[place] += 1 + moment / 100
    assert spent[0] == pytest.approx(spent[1])
    assert (
        sum(1 + moment / 100 for moment in range(50, 100)) / sum(1 + moment / 100 for moment in range(50))
        > 1.3
    )


def test_determinism_rate() -> None:
    samples = fake_samples(Fake(documents=10, repeats=3))
    assert determinism(samples) == 1.0
    random.Random(1).shuffle(samples)
    changed = [
        one.model_copy(update={"output_hash": "other"}) if (one.doc_id, one.repeat) == (4, 1) else one
        for one in samples
    ]
    assert determinism(changed) == 0.9
    slower = [
        one.model_copy(update={"nfe": 1}) if (one.doc_id, one.repeat) == (5, 2) else one for one in changed
    ]
    assert determinism(slower) == 0.8
    assert determinism(fake_samples(Fake(documents=10))) is None, "unknown without repeats"


def test_unknown_protocol() -> None:
    with pytest.raises(ProtocolError, match="--protocol 'fast' is unknown; use quick, standard, publish"):
        protocol("fast")


def test_standard_run(tmp_path: Path) -> None:
    command = [
        "run",
        "--method",
        "vanilla:tokens_per_step=8",
        "--method",
        "fast_dllm",
        "--suite",
        "nano-gsm",
        "--limit",
        "3",
    ]
    done = bench(*command, "--protocol", "standard", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    for folder in find_runs(tmp_path):
        run, samples = read_run(folder), read_samples(folder)
        assert (run.status, run.plan.protocol) == ("complete", "standard")
        assert Counter(sample.doc_id for sample in samples) == {0: 3, 1: 3, 2: 3}
        assert run.protocol is not None
        assert (run.protocol["name"], run.protocol["determinism"]) == ("standard", 1.0)
        assert run.protocol["warm_up"]
        for shape in run.protocol["warm_up"].values():
            assert 3 <= shape["runs"] <= 20
            assert shape["variation"] < 0.02 or shape["runs"] == 20
