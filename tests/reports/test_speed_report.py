"""Figures of speed tables by hand, and the tables that are committed."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.measuring.roofline import Hardware, ModelCost, Roofline
from harness.records.evidence import sealed
from harness.records.schema import RecordError
from harness.records.speed import HEADER, LINES, Replayed, SpeedPlan, SpeedRun, Timing
from reports.cells import UNKNOWN
from reports.speed import SpeedTable, grid, headings, load_speed, markdown
from reports.speed_page import draw, write_report
from tests.reports.test_reports_plots import assert_tidy

ROOT = Path(__file__).resolve().parents[2]
ROOF = Roofline(Hardware("card", bandwidth=1e12, flops=1e14), ModelCost(1e9, 1e3, 2e9, 0.0))


def plan(**changes: object) -> SpeedPlan:
    given: dict[str, object] = {
        "kind": "forward",
        "shape": "dream7b",
        "layers": 2,
        "of_layers": 28,
        "dtype": "bfloat16",
        "attention": "sdpa",
        "block_size": None,
        "logits": 32,
        "device": "cuda",
        "device_name": "nvidia-h100",
        "threads": None,
        "cores": None,
        "torch": "2.13.0",
        "commit": "a" * 40,
        "rounds": 2,
        "warm_up": 2,
        "repeats": 2,
        "rows": [1],
        "query": [8],
        "cached": [0],
    }
    return SpeedPlan.model_validate({**given, **changes})


def table_of(made: SpeedPlan, timings: list[Timing]) -> SpeedTable:
    run = SpeedRun(
        id=made.id,
        created="2026-11-25T00:00:00+00:00",
        plan=made,
        environment={"git": {"dirty": False}},
        roofline=ROOF.record(),
    )
    return SpeedTable(Path("table"), run, timings)


def forward_table(roof_s: float = 1e-3) -> SpeedTable:
    times = [[4e-3, 2e-3], [5e-3, 3e-3]]
    lines = [
        Timing(rows=1, query=8, cached=0, round=turn, times_s=values, roof_s=roof_s, kernels=["flash"])
        for turn, values in enumerate(times)
    ]
    return table_of(plan(), lines)


def replay_table() -> SpeedTable:
    told = [
        Replayed(run_id=name, method=name, suite="nano-gsm", changed=changed, model="nano", windows="0" * 16)
        for name, changed in (("vanilla", {}), ("d2f", {"block_size": 8}))
    ]
    made = plan(kind="replay", replays=told, answers=4, rows=[2], query=[], cached=[], repeats=1)
    timings = [
        Timing(
            rows=2,
            run_id=name,
            answers=4,
            nfe=nfe,
            useful=100,
            round=turn,
            times_s=[wall, 3 * wall],
            roof_s=0.5,
            kernels=["math"],
        )
        for turn, scale in enumerate((1.0, 1.5))
        for name, wall, nfe in (("vanilla", 1.0 * scale, 192), ("d2f", 0.25 * scale, 24))
    ]
    return table_of(made, timings)


def test_a_cell_is_the_median_of_all_rounds() -> None:
    (line,) = forward_table().lines
    assert (line.middle, line.least, line.roof) == pytest.approx((3.5e-3, 2e-3, 1e-3))
    assert line.share == pytest.approx(1 / 3.5)
    assert (line.low, line.high) == pytest.approx((2.3e-3, 4.7e-3))
    text = markdown([forward_table()])
    assert "| 1 | 8 | 0 | 3.5 | 2 | 2.3 - 4.7 | n/a | 1 | 29% | n/a | flash |" in text
    assert "dream7b, 2 of 28 layers, bfloat16, on nvidia-h100" in text


def test_a_replay_gives_seconds_per_answer_and_tokens_per_second() -> None:
    first, second = replay_table().lines
    assert [line.label for line in (first, second)] == ["d2f block_size=8", "vanilla"]
    assert (second.middle, second.low, second.high) == pytest.approx((1.25, 1.0, 1.5))
    assert second.tps == pytest.approx(25 / 1.25)
    assert second.share == pytest.approx(0.125 / 1.25)
    assert "| d2f block_size=8 | 2 | 0.3125 |" in markdown([replay_table()]) or "| 0.312 |" in markdown(
        [replay_table()]
    )


@pytest.mark.parametrize("table", [forward_table(), replay_table()], ids=["forward", "replay"])
def test_plot_and_page_show_every_line(table: SpeedTable, tmp_path: Path) -> None:
    written = write_report([table], tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<tr>") == 1 + len(table.lines)
    assert text.count("data:image/png;base64,") == 1
    assert "://" not in text
    assert [path.name for path in written[:2]] == ["speed.md", "index.html"]
    assert all(path.stat().st_size > 1000 for path in written[2:])


def test_no_text_of_a_plot_leaves_it_or_covers_another() -> None:
    for table in (forward_table(), replay_table(), *load_speed(ROOT / "results" / "speed")):
        drawn = draw(table)
        assert_tidy(drawn)
        ticks = [label.get_text() for axes in drawn.axes for label in axes.get_yticklabels(which="both")]
        assert not any("mathdefault" in text for text in ticks), "powers of ten where plain numbers are read"


def test_a_roof_that_is_not_the_headers_is_refused(tmp_path: Path) -> None:
    for roof_s, fine in ((1e-3, True), (1.1e-3, False)):
        table, folder = forward_table(roof_s), tmp_path / str(fine)
        folder.mkdir()
        (folder / HEADER).write_text(table.run.model_dump_json())
        (folder / LINES).write_bytes(b"".join(sealed(timing) + b"\n" for timing in table.timings))
        if fine:
            assert len(load_speed(folder)[0].lines) == 1
        else:
            with pytest.raises(RecordError, match="the header's roofline gives"):
                load_speed(folder)


@pytest.mark.parametrize(("had_s", "busy"), [(1.4e-3, True), (7e-3, False)])
def test_a_busy_machine_is_named(had_s: float, busy: bool) -> None:
    table = forward_table()
    timings = [timing.model_copy(update={"processor_s": had_s}) for timing in table.timings]
    (line,) = (made := table_of(plan(threads=1), timings)).lines
    assert line.processor == pytest.approx(had_s / 2)
    assert made.processor_share == pytest.approx(2 * had_s / 14e-3)
    assert ("a busy machine" in " ".join(made.facts)) == busy


def test_the_terminal_has_room_for_every_heading_in_80_columns() -> None:
    for table in (forward_table(), replay_table(), *load_speed(ROOT / "results" / "speed")):
        console = Console(width=80, record=True, file=StringIO())
        console.print(grid(table))
        lines = console.export_text().splitlines()
        top = next(line for line in lines if " rows " in f" {line} ")
        shown = [name for name in headings(table) if name in top]
        assert {"rows", "share of roof", "memory"} <= set(shown), top
        values = lines[lines.index(top) + 2].split()
        assert values[-1] in ("MiB", "GiB", UNKNOWN), values
        assert any(value.endswith("%") for value in values[-3:]), values


def test_committed_tables_are_whole_clean_and_small() -> None:
    root = ROOT / "results" / "speed"
    tables = load_speed(root)
    assert tables
    for table in tables:
        assert table.run.status == "complete"
        assert table.run.environment["git"]["dirty"] is False, table.folder
        assert table.folder == root / table.run.plan.device_name / table.run.id
        assert (table.folder / LINES).stat().st_size < 60_000
        assert "/" not in json.dumps(table.run.environment["versions"])
    assert (root / "report" / "speed.md").read_text() == markdown(tables)
