"""Streaming-dLLM, FreeDave, the delayed and the sparse cache: the rules' own arithmetic, and equality with
what they must equal.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.decoding.registry import load_method
from harness.decoding.row import Row
from harness.decoding.settings import SettingError, build_config
from harness.model.spec import ModelSpec
from methods.base import Program, RowDecoder
from methods.block_loop import block_loop
from methods.caches.delayed import DelayedCache
from methods.caches.sparse import most_attended
from methods.rules import RULES
from methods.semi_ar import Config as SemiArConfig
from methods.streaming_dllm import falling_threshold, seen
from tests.examples.late_dual import LateDual
from tests.helpers import backbone, canvas

PROMPTS = [[5, 9, 14, 3, 22, 7, 31], [40, 11, 2, 8], [17, 23, 6, 12, 33, 4, 9, 10, 28], [3, 30]]
FAMILIES = ["dream_tiny", "llada_tiny"]


def decode(
    name: str,
    model: str,
    settings: dict[str, Any],
    prompts: list[list[int]] = PROMPTS,
    new: int = 16,
    **kind: Any,
) -> list[Row]:
    """Rows of one batch; float64 unless told otherwise, since two ways to compute one thing are compared."""
    method, engine = load_method(name).decoder, backbone(model, dtype=kind.get("dtype", torch.float64))
    page = canvas(engine, prompts, new, kind.get("stop_rule", "reference"))
    method.decode(engine, page, build_config(method.name, method.Config, settings))
    return page.rows


def outputs(rows: list[Row]) -> list[list[int]]:
    return [row.output for row in rows]


def page_of(prompt: int, new: int) -> Row:
    page = canvas(backbone("llada_tiny"), [list(range(1, prompt + 1))], new)
    page.meter.record(0, (1, 0, 0), 1)
    return page.rows[0]


def test_streaming_threshold_falls_with_the_masks_left() -> None:
    assert falling_threshold(0.9, 0.3, 8, 8) == pytest.approx(0.9)
    assert falling_threshold(0.9, 0.3, 4, 8) == pytest.approx(0.765)
    assert falling_threshold(0.9, 1.0, 0, 8) == pytest.approx(0.0)
    assert falling_threshold(0.9, 0.0, 1, 8) == pytest.approx(0.9)


def test_streaming_sees_a_window_and_the_last_place() -> None:
    row = page_of(4, 16)
    assert seen(row, 8, 3) == [*range(11), 19]
    assert seen(row, 8, 11) == [*range(20)]
    assert seen(row, 8, 12) == [*range(20)]
    assert seen(row, 20, 0) == [*range(20)]


@pytest.mark.parametrize("model", FAMILIES)
def test_streaming_with_the_whole_suffix_is_fast_dllm(model: str) -> None:
    """On LLaDA without the obligatory pass of a block that is complete at once."""
    for threshold in (0.05, 0.3):
        ours = decode(
            "streaming_dllm",
            model,
            {"block_length": 4, "threshold": threshold, "alpha": 0, "suffix_window": 16, "early_exit": False},
        )
        theirs = decode("fast_dllm", model, {"block_length": 4, "threshold": threshold, "cache": "prefix"})
        assert outputs(ours) == outputs(theirs)
        assert all(one.nfe <= other.nfe for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("model", FAMILIES)
def test_streaming_feeds_block_and_window_alone(model: str) -> None:
    row = decode(
        "streaming_dllm",
        model,
        {"block_length": 4, "suffix_window": 2, "early_exit": False, "threshold": 1.0, "alpha": 0},
        PROMPTS[1:2],
    )[0]
    queries, forwards = row._meter.rows[0].queries, [list(one) for one in row._meter.rows[0].forwards]
    assert list(map(list, queries[0])) == [[0, 10], [19, 20]]
    assert list(map(list, queries[1])) == [[4, 10], [19, 20]]
    assert forwards[:2] == [[11, 0, 4], [7, 4, 0]]
    assert list(map(list, queries[-1])) == [[16, 20]]
    assert all(entry[1] in (0, 4, 8, 12, 16) for entry in forwards)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("length", [None, 8])
def test_freedave_equals_one_token_per_step(model: str, length: int | None) -> None:
    plain = decode("vanilla", model, {"block_length": length})
    for steps in (1, 2, 5):
        ours = decode("freedave", model, {"block_length": length, "draft_steps": steps})
        assert outputs(ours) == outputs(plain)
        assert all(one.nfe <= other.nfe for one, other in zip(ours, plain, strict=True))
        first = ours[0]._meter.rows[0].forwards
        assert [entry[0] for entry in first[:2]] == [len(PROMPTS[0]) + 16, steps * (len(PROMPTS[0]) + 16)]
    assert sum(row.nfe for row in ours) < sum(row.nfe for row in plain)  # pyright: ignore[reportPossiblyUnboundVariable]


def test_freedave_refuses_sampling() -> None:
    method = load_method("freedave").decoder
    config = build_config("freedave", method.Config, {"temperature": 0.5})
    with pytest.raises(SettingError, match="set temperature=0"):
        method.check(backbone("llada_tiny").spec, config, 16)  # pyright: ignore[reportAttributeAccessIssue]


def test_delayed_cache_waits_and_rebuilds() -> None:
    row = page_of(3, 8)
    store = DelayedCache(row, [(0, 3), (3, 7), (7, 11)], delay=2, refresh=None)
    first, second = store.request(row.masked()), store.request(row.masked())
    assert (first.feed, first.keep) == ((0, 11), None)  # the prompt was complete one step ago
    assert (second.feed, second.keep) == ((0, 11), (0, 3))
    row.commit([3, 4, 5, 6], [5, 6, 7, 8])
    waiting, stored, behind = (store.request(row.masked()) for _ in range(3))
    assert (waiting.feed, waiting.keep, waiting.fresh) == ((0, 11), (0, 3), True)
    assert (stored.feed, stored.keep, stored.fresh) == ((3, 11), (3, 7), False)
    assert (behind.feed, behind.keep) == ((7, 11), None)


def test_delayed_cache_refreshes() -> None:
    row = page_of(3, 8)
    store = DelayedCache(row, [(0, 3), (3, 7), (7, 11)], delay=1, refresh=3)
    feeds = [store.request(row.masked()) for _ in range(4)]
    assert [(one.feed, one.fresh) for one in feeds] == [
        ((0, 11), False),
        ((3, 11), False),
        ((0, 11), True),
        ((3, 11), False),
    ]


@pytest.mark.parametrize("model", FAMILIES)
def test_a_cache_that_is_never_filled_changes_nothing(model: str) -> None:
    settings = {"block_length": 4, "entropy_threshold": 2.0}
    never = decode("multi_block", model, {**settings, "cache_delay_iter": 10000})
    assert outputs(never) == outputs(decode("multi_block", model, settings))
    cached = decode("multi_block", model, {**settings, "cache_delay_iter": 1})
    assert sum(row._meter.rows[row.index].positions for row in cached) < sum(
        row._meter.rows[row.index].positions for row in never
    )


def test_sparse_keeps_the_most_attended_rows() -> None:
    mass = torch.tensor([0.1, 0.0, 0.3, 9.0, 9.0, 0.0, 0.2, 0.0])
    assert most_attended(mass, (3, 5), 0.5, 1).tolist() == [0, 2, 6]
    # Neighbours outside the block: 2 and 5 are next to each other once the block is cut out.
    assert most_attended(mass, (3, 5), 0.5, 3).tolist() == [1, 2, 5]
    assert most_attended(mass, (3, 5), 0.0, 3).tolist() == []
    assert most_attended(mass, (3, 5), 1.0, 3).tolist() == [0, 1, 2, 5, 6, 7]


class WithLateDual(RowDecoder):
    """The plain block decoder with the example policy."""

    name = "with_late_dual"
    Config = SemiArConfig

    def uses_cache(self, config: Any) -> bool:
        return True

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        yield from block_loop(row, spec, config, RULES["confidence"](row, spec, config), LateDual(spec.shift))


@pytest.mark.parametrize("model", FAMILIES)
def test_sparse_that_keeps_everything_is_the_example_policy(model: str) -> None:
    settings = {"block_length": 8, "num_transfer_tokens": 2}
    sparse = decode("semi_ar", model, {**settings, "cache": "sparse", "keep_ratio": 1.0})
    engine = backbone(model, dtype=torch.float64)
    page = canvas(engine, PROMPTS, 16)
    WithLateDual().decode(engine, page, build_config("semi_ar", SemiArConfig, settings))
    assert outputs(sparse) == outputs(page.rows)
    assert [entry[0] for entry in page.rows[1]._meter.rows[1].forwards] == [20, 20, 8, 8] * 2


CASES: list[tuple[str, dict[str, Any]]] = [
    *(
        ("semi_ar", {"cache": cache, "num_transfer_tokens": 2})
        for cache in ("none", "prefix", "dual", "dllm_cache", "d2cache", "sparse")
    ),
    ("streaming_dllm", {"suffix_window": 3, "threshold": 0.1}),
    ("freedave", {"draft_steps": 3}),
    ("multi_block", {"cache_delay_iter": 1, "refresh_interval": 3, "entropy_threshold": 2.0}),
    ("dkv_cache", {"cache_steps": 3}),
]


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=[f"{name}-{settings.get('cache', '')}" for name, settings in CASES]
)
def test_batch_of_four_equals_single(name: str, settings: dict[str, Any], model: str) -> None:
    config = {"block_length": 4, **settings}
    together = decode(name, model, config)
    alone = [decode(name, model, config, [prompt])[0] for prompt in PROMPTS]
    assert [(row.output, row.step_map) for row in together] == [(row.output, row.step_map) for row in alone]
