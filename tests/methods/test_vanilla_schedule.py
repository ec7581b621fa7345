"""``tokens_per_step`` is exact; ``steps`` keeps the published grids."""

from __future__ import annotations

from collections import Counter

import pytest

from methods.base import SettingError
from methods.vanilla import Algorithm, Config, Vanilla
from tests.helpers import backbone, canvas


@pytest.mark.parametrize("model", ["dream_tiny", "llada_tiny"])
@pytest.mark.parametrize("alg", [None, "origin", "maskgit_plus"])
@pytest.mark.parametrize(
    ("per_step", "block", "expected"),
    [(1, None, [1] * 12), (4, None, [4, 4, 4]), (5, None, [5, 5, 2]), (3, 4, [3, 1] * 3)],
)
def test_every_step_writes_exactly_its_quota(
    model: str, alg: Algorithm | None, per_step: int, block: int | None, expected: list[int]
) -> None:
    network = backbone(model)
    page = canvas(network, [[5, 6, 7]], 12)
    Vanilla().decode(network, page, Config(tokens_per_step=per_step, alg=alg, block_length=block))
    counts = Counter(page.rows[0].step_map)
    assert [counts[step] for step in range(len(expected))] == expected


def test_as_many_steps_as_places_on_dreams_grid_write_none_first_and_two_last() -> None:
    network = backbone("dream_tiny")
    page = canvas(network, [[5, 6, 7]], 12)
    Vanilla().decode(network, page, Config(steps=12))
    counts = Counter(page.rows[0].step_map)
    assert counts[0] == 0
    assert counts[11] == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [(Config(block_length=5), "max_new_tokens 12"), (Config(block_length=4, steps=8), "3 blocks")],
)
def test_blocks_that_do_not_fit_are_refused(config: Config, message: str) -> None:
    network = backbone("dream_tiny")
    with pytest.raises(SettingError, match=message):
        Vanilla().decode(network, canvas(network, [[5, 6, 7]], 12), config)
