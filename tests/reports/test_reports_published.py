"""Published figures stay apart; AUP equals the values recomputed from the literature's own tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.aup import aup, pool, sentence
from reports.leaderboard import leaderboard
from reports.load import ReportError, load
from reports.published import HEADINGS, cells, markdown, read_published
from reports.table import build
from tests.conftest import GOLDEN
from tests.synthetic_runs import Fake, write_fake, write_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published.yaml"


def golden_aup() -> list[tuple[str, list[tuple[float, float]], float, float]]:
    tables = json.loads((GOLDEN / "aup.json").read_text())["tables"]
    cases = []
    for family, suites in tables.items():
        for suite, methods in suites.items():
            y_max = methods.pop("y_max")
            cases += [
                (f"{family}/{suite}/{name}", one["pairs"], y_max, one["AUP"]) for name, one in methods.items()
            ]
    return cases


def test_aup_equals_every_golden_value() -> None:
    cases = golden_aup()
    assert len(cases) > 60
    wrong = [
        name
        for name, pairs, y_max, expected in cases
        if abs(aup([(a, b) for a, b in pairs], y_max) - expected) > 1e-3
    ]
    assert wrong == []


def test_aup_depends_on_the_pool() -> None:
    """The fault the protocol warns of: one method, two pools, two figures."""
    points = [(1.0, 58.86), (3.2, 57.1)]
    assert aup(points, 72.25) == pytest.approx(129.4756, abs=1e-3)
    assert aup(points, 58.86) == pytest.approx(181.0, abs=0.5)


def test_aup_drops_points_that_lose_too_much() -> None:
    assert aup([(1, 80), (2, 79), (4, 70)], 80) == aup([(1, 80), (2, 79)], 80)


@pytest.mark.parametrize(("points", "y_max"), [([], 80.0), ([(1.0, 0.0)], 0.0)])
def test_aup_refuses_nonsense(points: list[tuple[float, float]], y_max: float) -> None:
    with pytest.raises(ValueError, match="AUP needs"):
        aup(points, y_max)


def test_aup_is_printed_with_its_pool(tmp_path: Path) -> None:
    write_table(tmp_path)
    (table,) = build(load(tmp_path))
    text = sentence(table)
    assert text is not None
    assert "vanilla" in text
    assert "(2 points)" in text
    assert "over this pool (d2f, fast_dllm, vanilla)" in text
    assert text in leaderboard(load(tmp_path))


def test_no_aup_where_nothing_is_solved(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(accuracy=-1.0, disagreement=0.0))
    assert pool(build(load(tmp_path))[0]) is None


def test_every_published_row_is_complete() -> None:
    published = read_published(PUBLISHED)
    assert published is not None
    assert [len(table.rows) for table in published.tables] == [13, 12, 18]
    assert all(table.caveats for table in published.tables)
    for table in published.tables:
        assert all(
            row[HEADINGS.index(name)] != "n/a"
            for row in cells(table)
            for name in ("suite", "device", "engine", "TPS")
        )


def test_published_rows_stay_apart_from_measured_ones(tmp_path: Path) -> None:
    write_table(tmp_path)
    text = leaderboard(load(tmp_path), published=read_published(PUBLISHED))
    measured, apart = text.split("## Published elsewhere, not measured here")
    assert "Dream-Base" not in measured
    assert "| HumanEval 0-shot | D2F | A100-40 PCIe | vLLM | 131.7 | 40.2 | n/a |" in apart
    assert "**not measured here**" in apart
    assert "README and paper disagree" in apart


def test_a_damaged_file_of_published_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "published.yaml"
    assert read_published(file) is None
    file.write_text("sources: {}\ntables: [{title: x, source: y, caveats: [], rows: []}]\n")
    with pytest.raises(ReportError, match="unknown source y"):
        read_published(file)
    file.write_text("nothing: here")
    with pytest.raises(ReportError, match="is damaged"):
        read_published(file)


def test_markdown_links_its_sources() -> None:
    published = read_published(PUBLISHED)
    assert published is not None
    assert all(source.url in markdown(published) for source in published.sources.values())
