"""Plots are drawn from what the runs hold, twice the same, and leave out what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from harness.records.schema import read_samples
from reports.cells import columns
from reports.load import load
from reports.plots import PLOTS, draw, pareto, quality_speed, write
from reports.style import encode, looks
from reports.table import Table, build
from tests.synthetic_runs import Fake, write_fake, write_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    root = tmp_path_factory.mktemp("runs")
    write_table(root, 24)
    return build(load(root))[0]


def test_every_plot_is_written_as_png_and_svg(table: Table, tmp_path: Path) -> None:
    files = write(table, tmp_path)
    assert len(files) == 2 * len(PLOTS)
    for file in files:
        if file.suffix == ".png":
            image = Image.open(file)
            assert image.width > 1000
            assert len(image.convert("L").getcolors() or []) > 20
        else:
            assert file.read_text().count("<path") > 20


def test_the_same_runs_give_the_same_picture(table: Table) -> None:
    for form in ("png", "svg"):
        first, second = (encode(figure, form) for _ in range(2) if (figure := quality_speed(table)))
        assert first == second


def test_all_labels_lie_inside_the_picture_and_apart(table: Table) -> None:
    figure = draw(table)["quality-speed"]
    axes = figure.axes[0]
    boxes = [
        note.get_window_extent()
        for note in axes.texts
        if "\n" in note.get_text() or note.get_text() in ("d2f", "fast_dllm")
    ]
    assert len(boxes) == 4
    for place, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_labels_name_what_tells_the_runs_of_a_method_apart(tmp_path: Path) -> None:
    chosen = [("dual", 0.9), ("prefix", 0.9), ("none", 0.9), ("dual", 0.7)]
    for place, (cache, threshold) in enumerate(chosen):
        write_fake(
            tmp_path, Fake("fast_dllm", {"cache": cache, "threshold": threshold}, documents=8, seed=place)
        )
    write_fake(tmp_path, Fake("d2f", {"block_size": 16}, documents=8))
    figure = draw(build(load(tmp_path))[0])["quality-speed"]
    names = {note.get_text() for note in figure.axes[0].texts}
    prefix = "fast_dllm\ncache="
    assert {f"{prefix}{cache}" for cache in ("dual", "prefix", "none")} | {
        f"{prefix}dual threshold=0.7",
        "d2f",
    } <= names


def test_what_is_unknown_is_not_drawn(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=8))
    unknown = {"correct": None, "forward_s": None, "latency_s": None}
    lines = [sample.model_copy(update=unknown).model_dump_json() for sample in read_samples(folder)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    assert list(draw(build(load(tmp_path))[0])) == ["forwards"]


def test_time_bar_has_three_parts_that_add_up(table: Table) -> None:
    figure = draw(table)["time"]
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]  # pyright: ignore[reportGeneralTypeIssues]
    costs = [1000 / (row.stored.summary.tps or 0) for row in reversed(table.rows)]
    assert [sum(parts) for parts in zip(*widths, strict=True)] == pytest.approx(costs)
    assert widths[0] == pytest.approx([0.85 * cost for cost in costs])
    assert widths[1] == pytest.approx([0.1 * cost for cost in costs])


def test_runs_from_before_the_split_draw_no_time_bar(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, Fake(documents=8))
    lines = [
        sample.model_copy(update={"select_s": None}).model_dump_json() for sample in read_samples(folder)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    table = build(load(tmp_path))[0]
    assert "time" not in draw(table)
    assert "forward / select / harness" not in [column.heading for column in columns(table.rows)], (
        "unknown is not 0"
    )


def test_pareto_keeps_what_nothing_beats() -> None:
    assert pareto([(1, 9), (2, 8), (3, 8.5), (4, 1), (0.5, 9)]) == [(1, 9), (3, 8.5), (4, 1)]
    assert pareto([]) == []


def test_a_method_looks_the_same_in_every_order() -> None:
    assert looks(["d2f", "ar", "vanilla"], "vanilla") == looks(["vanilla", "ar", "d2f"], "vanilla")
    assert len(set(looks([*"abcdef", "vanilla"], "vanilla").values())) == 7
