"""The canvas: tokens are written once, inside the region, after a forward; the stop rule is the harness'."""

from __future__ import annotations

import random

import pytest

from harness.decoding.canvas import Canvas
from harness.decoding.rules import CanvasError


def make(stop_rule: str = "harness", new_tokens: int = 6) -> Canvas:
    page = Canvas([[5, 6], [7]], new_tokens, vocab_size=20, mask_id=19, eos_ids=[18], stop_rule=stop_rule)  # pyright: ignore[reportArgumentType]
    for row in page.meter.rows:
        row.forwards.append((1, 0, 0))
    return page


def test_commit_writes_row_and_device() -> None:
    page = make()
    row = page.rows[0]
    row.commit([3, 2], [9, 8], [0.5, 0.25])
    assert page.ids[0, :4].tolist() == [5, 6, 8, 9]
    assert row.output == [8, 9, 19, 19, 19, 19]
    assert row.step_map == [0, 0, -1, -1, -1, -1]
    assert row.confidences[:2] == [0.25, 0.5]
    assert row.masked() == [4, 5, 6, 7]
    assert row.frontier == 4


@pytest.mark.parametrize(
    ("at", "ids", "text"),
    [
        ([1], [3], "outside the generation region"),
        ([8], [3], "outside the generation region"),
        ([2], [3], "already committed"),
        ([3], [19], "no token"),
        ([3], [20], "no token"),
        ([3, 3], [4, 5], "twice"),
        ([3, 4], [4], "2 positions with 1 ids"),
    ],
)
def test_commit_refuses(at: list[int], ids: list[int], text: str) -> None:
    row = make().rows[0]
    row.commit([2], [3])
    with pytest.raises(CanvasError, match=text):
        row.commit(at, ids)


def test_commit_needs_a_forward() -> None:
    page = Canvas([[5]], 2, vocab_size=20, mask_id=19, eos_ids=[18])
    with pytest.raises(CanvasError, match="before any forward"):
        page.rows[0].commit([1], [3])


def test_harness_stops_at_eos_without_holes() -> None:
    row = make().rows[0]
    row.commit([4], [18])
    assert not row.stopped
    row.commit([2], [3])
    assert not row.stopped
    row.commit([3], [3])
    assert row.stopped


def test_reference_rule_never_stops_early() -> None:
    row = make("reference").rows[0]
    row.commit(range(2, 8), [18] * 6)
    assert not row.stopped


def test_full_canvas_stops() -> None:
    row = make().rows[0]
    row.commit(range(2, 8), [3] * 6)
    assert row.stopped


def test_revise_may_rewrite() -> None:
    row = make().rows[0]
    row.commit([2], [3])
    row.revise([2, 3], [4, 5])
    assert row.output[:2] == [4, 5]


def test_close_ends_the_region() -> None:
    row = make().rows[0]
    row.commit([2, 3], [3, 4])
    with pytest.raises(CanvasError, match="leaves unwritten"):
        row.close(5)
    with pytest.raises(CanvasError, match="cut off written"):
        row.close(3)
    row.close(4)
    assert (row.end, row.output, row.stopped) == (4, [3, 4], True)
    with pytest.raises(CanvasError, match="outside"):
        row.commit([5], [3])


def test_blocks_end_on_their_own() -> None:
    row = make(new_tokens=7).rows[0]
    row.divide([3, 2])
    assert (row.spans, row.end) == ([(2, 5), (5, 7)], 7)
    row.commit([2, 3], [9, 18])
    assert row.settled(0)
    assert not row.stopped
    row.commit([5, 6], [8, 18])
    assert row.stopped
    assert row.finals == [(2, 4), (5, 7)]


def test_abandoned_block_ends_at_its_first_hole() -> None:
    row = make().rows[0]
    row.divide([4, 2])
    row.commit([2, 5], [9, 9])
    row.commit([6, 7], [8, 8])
    assert not row.stopped
    row.abandon(0)
    assert row.stopped
    assert row.finals == [(2, 3), (6, 8)]


def test_reference_rule_settles_full_blocks_only() -> None:
    row = make("reference").rows[0]
    row.divide([3, 3])
    row.commit([2], [18])
    assert not row.settled(0)
    row.commit([3, 4], [18, 18])
    assert row.settled(0)


@pytest.mark.parametrize("lengths", [[], [0, 3], [4, 3], [-1, 4]])
def test_divide_refuses(lengths: list[int]) -> None:
    with pytest.raises(CanvasError, match="do not divide"):
        make().rows[0].divide(lengths)


def test_divide_comes_first_and_once() -> None:
    row = make().rows[0]
    row.commit([2], [3])
    with pytest.raises(CanvasError, match="before the first commit"):
        row.divide([3, 3])
    with pytest.raises(CanvasError, match="divided row"):
        row.abandon(0)
    other = make().rows[1]
    other.divide([3, 3])
    with pytest.raises(CanvasError, match="and once"):
        other.divide([3, 3])
    with pytest.raises(CanvasError, match="cuts off the block that starts at 4"):
        other.close(4)


def test_suite_divides_every_row_and_the_last_block_may_be_closed_early() -> None:
    page = Canvas([[5, 6], [7]], 6, vocab_size=20, mask_id=19, eos_ids=[18], blocks=[4, 2])
    assert [row.spans for row in page.rows] == [[(2, 6), (6, 8)], [(1, 5), (5, 7)]]
    row = page.rows[0]
    page.meter.record(0, (8, 0, 0), 8)
    written = [(2, 18), (5, 18), (6, 18), (7, 18), (7, 3)]
    assert [row.ends_answer(position, token) for position, token in written] == [
        False,
        False,
        True,
        True,
        False,
    ]
    row.commit(range(2, 7), [18, 3, 3, 3, 18])
    row.close(7)
    assert (row.spans, row.finals, row.stopped) == ([(2, 6), (6, 7)], [(2, 3), (6, 7)], True)


def test_revising_to_the_mask_id_takes_tokens_back() -> None:
    page = make()
    row = page.rows[0]
    row.commit(range(2, 8), [3, 4, 18, 3, 3, 3])
    assert row.stopped
    row.revise([3, 2, 4], [19, 7, 19])
    assert (row.masked(), row.frontier, row.eos_position, row.stopped) == ([3, 4], 3, None, False)
    assert page.ids[0, 2:5].tolist() == [7, 19, 19]
    row.commit([3], [9])
    assert row.output[:3] == [7, 9, 19]
    with pytest.raises(CanvasError, match="outside"):
        row.revise([1], [19])
    with pytest.raises(CanvasError, match="2 positions with 1 ids"):
        row.revise([2, 3], [4])


def test_first_end_of_text_after_every_kind_of_write() -> None:
    row, draw = make(new_tokens=8).rows[0], random.Random(0)
    for _ in range(300):
        at = draw.sample(range(2, 10), draw.randint(1, 3))
        row.revise(at, [draw.choice([3, 18, 19]) for _ in at])
        ends = [position for position in range(2, 10) if row.token(position) == 18]
        assert row.eos_position == (ends[0] if ends else None)


def test_model_without_mask_token() -> None:
    page = Canvas([[5]], 3, vocab_size=20, mask_id=None, eos_ids=[18])
    page.meter.rows[0].forwards.append((1, 0, 0))
    row = page.rows[0]
    assert row.masked() == [1, 2, 3]
    row.commit([1], [18])
    assert row.stopped


def test_random_streams_belong_to_rows() -> None:
    alone = Canvas([[5]], 2, vocab_size=20, mask_id=19, eos_ids=[18], seeds=[42]).rows[0].rng.initial_seed()
    second = (
        Canvas([[7], [5]], 2, vocab_size=20, mask_id=19, eos_ids=[18], seeds=[1, 42])
        .rows[1]
        .rng.initial_seed()
    )
    assert alone == second == 42
