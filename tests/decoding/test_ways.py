"""Goldens alone, packed, continuous and with each implementation of attention: one answer. A sample; all of
them with BENCH_GOLDENS=all (or ``python -m tests.tools.golden_ways``), traced layers included.
"""

from __future__ import annotations

import os

import pytest

from tests.ways import WAYS, Case, different, goldens

ALL = os.environ.get("BENCH_GOLDENS") == "all"
CASES = goldens()[:: 1 if ALL else 90]
CHOSEN = tuple(way for way in WAYS if ALL or way != "traced")


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_every_way_gives_the_same_answer(case: Case) -> None:
    found = different(case, CHOSEN)
    assert set(found) == {"eager", *CHOSEN}
    assert [way for way, differs in found.items() if differs] == []


def test_all_goldens_are_here() -> None:
    assert len(goldens()) == 260 + 261 + 402
