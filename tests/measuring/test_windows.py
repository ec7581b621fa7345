"""Replayed windows: the meter of a replay shows the stored forwards, row by row."""

from __future__ import annotations

import pytest
import torch

from harness.decoding.masks import BlockCausal
from harness.measuring.roofline import Hardware, ModelCost, Roofline
from harness.measuring.speed import Cell, needed_bytes, roof_of, visit_cell
from harness.measuring.windows import WindowError, blank, chosen, place, scripts, steps
from harness.model.shapes import shape_spec
from harness.records.schema import Run, Sample
from tests.helpers import backbone
from tests.synthetic_runs import Fake, fake_run, fake_samples

# A dual cache's refresh and steps in the middle, then D2F's window that keeps a part.
LONG = [(20, 0, 8), (4, 16, 0), (4, 16, 0), (8, 8, 4)]
SHORT = [(12, 0, 12), (1, 12, 1)]


def samples_of(*forwards: list[tuple[int, int, int]]) -> tuple[Run, list[Sample]]:
    run, blank_sample = fake_run(Fake()), fake_samples(Fake(documents=1))[0]
    rows = [
        {
            "doc_id": k,
            "order": k,
            "forwards": one,
            "useful": 5,
            "positions": sum(query for query, _, _ in one),
        }
        for k, one in enumerate(forwards)
    ]
    return run, [
        blank_sample.model_copy(update={**row, "step_map": [0, 0, 1, -1], "nfe": len(row["forwards"])})
        for row in rows
    ]


def test_logits_where_tokens_were_still_unwritten() -> None:
    _, samples = samples_of([(20, 0, 8), (4, 16, 0)])
    (script,) = scripts(samples, canvas=6, logits=32)
    # Two of six places are written by the first pass, one by the second; three stay open.
    assert [(window.query, window.cached, window.stored, window.asked) for window in script] == [
        (20, 0, 8, 6),
        (4, 16, 0, 4),
    ]
    assert [window.asked for window in scripts(samples, canvas=6, logits=2)[0]] == [2, 2]


@pytest.mark.parametrize("model", ["dream_tiny", "llada_tiny"])
def test_a_replay_feeds_what_was_stored(model: str) -> None:
    _, samples = samples_of(LONG, SHORT)
    batch, tiny = scripts(samples, canvas=6, logits=4), backbone(model)
    canvas, cache = blank(tiny, batch, [8, 8])
    shared = [sorted(step) for step in steps(batch)]
    assert shared == [[0, 1], [0, 1], [0], [0]]
    for step in steps(batch):
        requests = place(tiny, cache, step)
        found = tiny.forward_rows(canvas, requests, cache)
        assert {row: len(logits) for row, logits in found.items()} == {
            row: window.asked for row, window in step.items()
        }
    assert [row.forwards for row in canvas.meter.rows] == [LONG, SHORT]
    assert [row.kv_read for row in canvas.meter.rows] == [20 + 20 + 20 + 16, 12 + 13]


def test_without_a_cache_nothing_is_stored() -> None:
    _, samples = samples_of([(12, 0, 0), (12, 0, 0)])
    tiny = backbone("dream_tiny")
    canvas, cache = blank(tiny, scripts(samples, 6, 4), [8])
    assert cache is None
    assert canvas.rows[0].length == 12


def test_a_cell_is_timed_as_often_as_asked_under_a_mask_too() -> None:
    visit = visit_cell(backbone("dream_tiny"), Cell(3, 4, 8, 2), 2, 1, BlockCausal(2))
    assert len(visit.times_s) == 2
    assert min(visit.times_s) > 0
    assert visit.kernels
    assert set(visit.kernels) <= {"flash", "math", "efficient", "cudnn"}
    assert visit.processor_s is not None


def test_roofs_add_up_over_shared_passes() -> None:
    roofline = Roofline(Hardware("x", bandwidth=10.0, flops=1e9), ModelCost(100.0, 1.0, 1.0, 0.0))
    _, samples = samples_of(LONG, SHORT)
    batch = scripts(samples, 6, 4)
    # Bytes: weights once per shared pass, and what both rows have cached.
    assert roof_of(roofline, [batch]) == pytest.approx((100 + (116 + 12) + 116 + 108) / 10)


def test_needed_memory_counts_weights_once_and_grows_with_rows() -> None:
    spec = shape_spec("qwen3-0.6b")
    weights, one = needed_bytes(spec, torch.bfloat16, [Cell(1, 8, 1016, 8).batch])
    assert weights == pytest.approx(1.19e9, rel=0.01)
    same, many = needed_bytes(spec, torch.bfloat16, [Cell(16, 8, 1016, 8).batch, Cell(1, 8, 0, 8).batch])
    assert (same, many) == (weights, 16 * one)
    assert one > 2 * 2 * 28 * 8 * 128 * 1024


def test_runs_that_windows_do_not_replay_are_refused() -> None:
    run, samples = samples_of(LONG, SHORT)
    assert len(chosen(run, samples, 1, [1])) == 1
    assert len(chosen(run, samples, 1, [1, 2])) == 2
    with pytest.raises(
        WindowError, match=r"has 2 answers with recorded windows, 3 are wanted: lower --answers or --rows"
    ):
        chosen(run, samples, 3, [1])
    samples[0].positions = 17
    with pytest.raises(WindowError, match="computed 17 positions in windows of 36"):
        chosen(run, samples, 1, [1])


def test_windows_beyond_the_context_are_refused() -> None:
    _, samples = samples_of([(12, 5000, 0)])
    with pytest.raises(WindowError, match="exceed the context"):
        blank(backbone("dream_tiny"), scripts(samples, 6, 4), [8])
