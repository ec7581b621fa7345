"""Plots are drawn from what the runs hold, twice the same, and leave out what is unknown."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from PIL import Image

from harness.records.schema import read_samples
from reports.cells import columns
from reports.ideal import IDEAL
from reports.labels import DOT
from reports.load import load
from reports.plots import PLOTS, draw, drawable, quality_parallelism, quality_speed, write
from reports.scatter import NAMED, figure_point, named, pareto
from reports.style import FAINT, encode, fit, looks
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


def test_parallel_suites_have_the_line_of_an_ideal_decoder(tmp_path: Path) -> None:
    for place, (method, per_forward) in enumerate((("vanilla", 1.0), ("d2f", 2.5), ("lopa", 4.0))):
        fake = Fake(
            method, suite="parallel-shuffle", tokens_per_forward=per_forward, accuracy=0.9 - place / 4
        )
        write_fake(tmp_path, fake)
    drawn = quality_parallelism(build(load(tmp_path))[0])
    assert drawn is not None
    (line,) = [one for one in drawn.axes[0].get_lines() if str(one.get_label()).startswith("ideal decoder")]
    assert list(np.asarray(line.get_ydata())) == [100 * share for share in IDEAL["parallel-shuffle"]]
    assert_tidy(drawn)


def test_the_same_runs_give_the_same_picture(table: Table) -> None:
    for form in ("png", "svg"):
        first, second = (encode(figure, form) for _ in range(2) if (figure := quality_speed(table)))
        assert first == second


def texts(figure: Figure) -> dict[str, Bbox]:
    """Every text that a figure shows, with the pixels it covers; labels of ticks beyond the axes are not
    shown.
    """
    FigureCanvasAgg(figure).draw()
    hidden: set[int] = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
    return {
        f"{number}: {text.get_text()}": Text.get_window_extent(text)
        for number, text in enumerate(figure.findobj(Text))
        if isinstance(text, Text)
        and text.get_visible()
        and text.get_text().strip()
        and id(text) not in hidden
    }


def assert_tidy(figure: Figure) -> None:
    boxes = texts(figure)
    low, high = figure.bbox.min, figure.bbox.max
    for name, box in boxes.items():
        assert np.all(low <= box.min), f"{name!r} leaves the picture"
        assert np.all(box.max <= high), f"{name!r} leaves the picture"
    for (name, box), (other, there) in combinations(boxes.items(), 2):
        assert not box.overlaps(there), f"{name!r} covers {other!r}"
    assert_names_apart(figure)


def assert_names_apart(figure: Figure) -> None:
    """No name lies on its own point, and no line from a name to its point runs through another name."""
    notes = [
        (axes, note)
        for axes in figure.axes
        for note in axes.texts
        if isinstance(note, Annotation) and note.get_text()
    ]
    for axes, note in notes:
        centre = axes.transData.transform(note.xy)
        half = DOT * figure.dpi / 72
        marker = Bbox([centre - half, centre + half])
        assert not Text.get_window_extent(note).overlaps(marker), f"{note.get_text()!r} covers its point"
        if note.arrow_patch is None:
            continue
        path = note.arrow_patch.get_transform().transform_path(note.arrow_patch.get_path())
        line = np.asarray(path.vertices, float)
        start, end = line[0], line[-1]
        spots = [start + (end - start) * share for share in np.linspace(0, 1, 60)]
        for other in (there for _, there in notes if there is not note):
            box = Text.get_window_extent(other)
            assert not any(box.contains(*spot) for spot in spots), (
                f"the line of {note.get_text()!r} runs through {other.get_text()!r}"
            )


def names(figure: Figure) -> list[str]:
    return [note.get_text() for note in figure.axes[0].texts if isinstance(note, Annotation)]


def test_no_text_leaves_a_picture_or_covers_another(table: Table) -> None:
    for figure in draw(table).values():
        assert_tidy(figure)
    shown = quality_speed(table)
    assert shown is not None
    assert len(names(shown)) == 4


def test_of_many_rows_a_dozen_are_named_and_the_rest_grey(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(documents=8))
    for place in range(39):
        settings = {"cache": f"a-rather-long-value-{place}", "threshold": place / 100}
        speed, rate = 0.004 + place % 5 / 50000, 0.5 + place % 7 / 50
        method = f"method_{place % 9}"
        write_fake(tmp_path, Fake(method, settings, documents=8, accuracy=rate, second_per_token=speed))
    (made,) = build(load(tmp_path))
    figure = quality_speed(made)
    assert figure is not None
    assert_tidy(figure)
    rows = named(made.rows)
    assert len(rows) == NAMED
    assert any(row.is_baseline for row in rows)
    points = [point for row in made.rows if (point := figure_point(row, "tps"))]
    assert set(pareto(points)) <= {figure_point(row, "tps") for row in rows}
    assert 8 <= len(names(figure)) <= NAMED, "rows that lie on one spot need not all find room"
    (grey,) = [line for line in figure.axes[0].lines if line.get_color() == FAINT]
    assert len(grey.get_xdata()) == 40 - NAMED  # pyright: ignore[reportArgumentType]
    assert "12 of 40 rows named" in "".join(text.get_text() for text in figure.axes[0].texts)
    spread = PLOTS["latency"](made)
    assert spread is not None
    assert len(spread.axes[0].get_yticks()) == NAMED
    assert_tidy(spread)


def test_names_of_any_length_and_formulas_fit(tmp_path: Path) -> None:
    for place, method in enumerate(("W" * 90, "$x^{", "a b " * 40)):
        write_fake(tmp_path, Fake(method, {"k": "v" * 60}, documents=4, second_per_token=0.01 + place / 999))
    (made,) = build(load(tmp_path))
    for name in ("quality-speed", "time"):
        figure = PLOTS[name](made)
        assert figure is not None
        assert_tidy(figure)


def test_long_names_break_behind_words_then_underscores_then_anywhere() -> None:
    assert fit("slow_fast k=2 very_high_confidence_threshold=0.95", 100, lines=3).split("\n") == [
        "slow_fast k=2 very_",
        "high_confidence_",
        "threshold=0.95",
    ]
    assert fit("one two", 200, lines=2) == "one two"
    cut = fit("several words that are too many for two lines of this width", 60, lines=2)
    assert cut.endswith("\u2026")
    assert cut.count("\n") == 1
    assert "W\nW" in fit("W" * 40, 60, lines=3)


def test_plots_are_known_before_they_are_drawn(table: Table) -> None:
    assert drawable(table) == list(PLOTS)


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
    made = build(load(tmp_path))[0]
    assert drawable(made) == list(draw(made)) == ["forwards"]


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
