"""Continuous batching: rows that take the place of finished ones answer as they do alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from harness.decoding.cache import KVCache
from harness.decoding.registry import load_method
from harness.decoding.settings import SettingError, build_config
from harness.engine.generator import Generator
from harness.engine.loader import in_training
from harness.measuring.clock import Decoded, decode
from tests.helpers import CPU, backbone

PROMPTS = [[5, 6, 7, 9, 11], [8, 8], [3, 4, 5, 6, 7, 8, 9], [4], [7, 7, 9], [5, 6, 7, 9, 11, 3], [10, 4]]
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("vanilla", {"tokens_per_step": 2}),
    ("semi_ar", {"block_length": 4}),
    ("fast_dllm", {"block_length": 4, "cache": "prefix", "threshold": 0.3}),
    ("fast_dllm", {"block_length": 4, "cache": "dual", "threshold": 0.3}),
    ("semi_ar", {"block_length": 4, "cache": "d2cache"}),
    ("d2f", {"block_size": 4}),
    ("lopa", {"block_size": 4, "branching_factor": 3}),
    ("dkv_cache", {}),
    ("wino", {"block_length": 4}),
]


def rows(
    method: str, settings: dict[str, Any], prompts: Sequence[Sequence[int]], live: int | None
) -> list[Decoded]:
    decoder = load_method(method).decoder
    config = build_config(method, decoder.Config, settings)
    model = backbone("dream_eos_tiny", dtype=torch.float64)
    return decode(model, decoder, config, prompts, 16, live=live)


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=[f"{n}-{len(s)}{s}" for n, s in METHODS])
def test_every_answer_is_that_of_batch_1(method: str, settings: dict[str, Any]) -> None:
    together = rows(method, settings, PROMPTS, 3)
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = rows(method, settings, [prompt], None)
        assert (row.output, row.nfe, row.step_map) == (alone.output, alone.nfe, alone.step_map)
        assert (row.forwards, row.queries) == (alone.forwards, alone.queries)
        assert row.audit_passed
    fixed = method in ("vanilla", "semi_ar", "dkv_cache")
    assert fixed or len({row.nfe for row in together}) > 1


def test_rows_wait_for_a_place_and_their_own_times_count_from_then() -> None:
    found = rows("fast_dllm", {"block_length": 4, "cache": "prefix"}, PROMPTS, 3)
    assert all(row.rows == len(PROMPTS) for row in found)
    assert all(row.admitted_s is not None for row in found)
    waits = [row.admitted_s or 0.0 for row in found]
    assert waits == sorted(waits)
    elapsed = found[0].time_s * len(found)
    assert sum(row.time_s for row in found) == pytest.approx(elapsed)
    ends = [wait + row.latency_s for wait, row in zip(waits, found, strict=True)]
    # The fourth row's turn came when one of the first three was done.
    assert min(ends[:3]) <= waits[3] <= max(ends)
    assert max(ends) <= elapsed
    assert all(row.admitted_s is None for row in rows("vanilla", {}, PROMPTS[:2], None))
    assert all(row.admitted_s is None for row in rows("vanilla", {}, PROMPTS[:2], 2))


def test_the_store_has_places_for_the_rows_at_work_alone() -> None:
    cache = KVCache(backbone("dream_tiny").spec, 5, 8, torch.float32, CPU, places=2)
    assert cache.keys[0].shape[0] == 2
    cache.admit(0)
    cache.admit(3)
    assert (cache.place(0), cache.place(3)) == (0, 1)
    cache.mark(0, range(4), {})
    cache.leave(0)
    cache.admit(4)
    assert (cache.place(4), cache.length(0), cache.length(4)) == (0, 0, 0)


def test_a_loop_of_its_own_cannot_be_joined_on_the_way() -> None:
    class Own:
        name, summary, requires = "own", "", frozenset[str]()
        Config = load_method("vanilla").decoder.Config

        def decode(self, backbone: object, canvas: object, config: object) -> None: ...

    loaded = in_training(backbone("dream_tiny"), None)
    Generator(loaded, load_method("vanilla").decoder, {}).check_continuous()
    with pytest.raises(SettingError, match="--continuous: own has a loop of its own"):
        Generator(loaded, Own(), {}).check_continuous()

    class Isolated(Own):
        glass = object()

    with pytest.raises(SettingError, match=r"runs behind glass.*use --no-isolate, or leave --continuous out"):
        Generator(loaded, Isolated(), {}).check_continuous()
