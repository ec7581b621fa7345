"""Reports on canvases of reasoning and answer: figures per block, in samples, table and animation."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from harness.records.schema import Sample
from harness.statistics.blocks import block_means
from harness.statistics.summary import summarise
from reports.cells import columns
from reports.load import StoredRun
from reports.replay import replay
from reports.table import build
from reports.trace import animate
from tests.synthetic_runs import Fake, fake_run, fake_samples


def divided(samples: list[Sample], ends: tuple[int, int] = (3, 2)) -> list[Sample]:
    """The samples with a seam in the middle of each answer."""
    cut = [len(sample.step_map) // 2 for sample in samples]
    return [
        sample.model_copy(update={"blocks": [(0, k), (k, len(sample.step_map))], "block_useful": list(ends)})
        for sample, k in zip(samples, cut, strict=True)
    ]


def stored(fake: Fake, blocks: bool, adapter: str | None = None) -> StoredRun:
    samples = divided(fake_samples(fake)) if blocks else fake_samples(fake)
    run = fake_run(fake, samples)
    run = run.model_copy(
        update={"plan": run.plan.model_copy(update={"adapter": adapter}), "run_id": f"{run.run_id}{adapter}"}
    )
    return StoredRun(Path(run.run_id), run, samples, summarise(samples))


def test_means_per_block() -> None:
    samples = divided(fake_samples(Fake(documents=4)))
    r, a = block_means(samples)
    assert (r.name, r.useful, a.name, a.useful) == ("R", 3, "A", 2)
    seam = [sample.blocks[0][1] for sample in samples]
    done = [1 + max(sample.step_map[:k]) for sample, k in zip(samples, seam, strict=True)]
    assert r.done == pytest.approx(sum(done) / 4)
    assert a.done == pytest.approx(
        sum(1 + max(sample.step_map[k:]) for sample, k in zip(samples, seam, strict=True)) / 4
    )
    assert block_means(fake_samples(Fake(documents=2))) == []
    assert block_means([samples[0].model_copy(update={"status": "error"})]) == []


def test_table_has_the_block_columns_only_where_answers_are_divided() -> None:
    plain, split = (
        build([stored(Fake(), blocks), stored(Fake("lockstep"), blocks)])[0] for blocks in (False, True)
    )
    assert "R / A" not in [column.heading for column in columns(plain.rows)]
    found = {column.heading: column for column in columns(split.rows)}
    assert found["R / A"].text(split.rows[0]) == "3 / 2"
    assert " / " in found["R / A done"].text(split.rows[0])
    assert {"useful_r", "useful_a", "done_r", "confidence_a"} <= set(split.frame.columns)
    assert "useful_r" not in plain.frame.columns


def test_students_of_one_method_are_told_apart_by_their_adapter() -> None:
    runs = [
        stored(Fake("lockstep", {"steps": 8}), True, adapter) for adapter in (None, "trained/nano-ra-cfd")
    ]
    assert {row.label for row in build(runs)[0].rows} == {
        "lockstep adapter=none",
        "lockstep adapter=nano-ra-cfd",
    }
    assert {row.label for row in build(runs[:1])[0].rows} == {"lockstep"}


def test_replay_and_animation_name_the_blocks(tmp_path: Path) -> None:
    whole = fake_samples(Fake(documents=1, tokens_per_forward=3))[0]
    sample = divided([whole])[0]
    length, seam = len(whole.step_map), len(whole.step_map) // 2
    assert replay(sample)["blocks"] == [["R", 0, seam], ["A", seam, length - seam]]
    sizes, frames = [], list[Image.Image]()
    for number, one in enumerate((whole, sample)):
        file = tmp_path / f"{number}.gif"
        assert animate(one, file) == (one.nfe or 0) + 1
        with Image.open(file) as image:
            sizes.append(image.height)
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    bars = [frame.crop((36, 60, 156, 82)).tobytes() for frame in (frames[0], frames[-1])]
    assert sizes[1] > sizes[0]
    assert bars[0] != bars[1]
