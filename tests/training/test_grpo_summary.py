"""The table of GRPO runs: figures from the files, the page renewed, and the committed page in agreement with
its runs.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from typer.testing import CliRunner

from methods.training.cli.train import app
from methods.training.grpo.picture import CONTROL, PANELS, TRAINED, curves, figure
from methods.training.grpo.summary import BEGIN, END, SummaryError, row, table, updated

ROOT = Path(__file__).parents[2]


def finished(folder: Path, shuffled: bool = False, evaluated: bool = True) -> Path:
    folder.mkdir()
    settings = {"suite": "nano-gsm", "shuffle_rewards": shuffled}
    (folder / "card.json").write_text(json.dumps({"settings": settings, "seconds": 90.0}))
    rows = [
        {"step": step, "reward": 0.1, "solved": step / 20, "kl": 0.02, "entropy": 0.3} for step in range(20)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    scores = {"before": {"nfe": 5.0}, "after": {"nfe": 6.25}}
    found = {
        "before": 0.41,
        "after": 0.594,
        "difference": 0.184,
        "low": 0.118,
        "high": 0.25,
        "p_value": 1.4e-7,
        "scores": scores,
    }
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_a_row_holds_the_figures_of_its_files(tmp_path: Path) -> None:
    assert row(finished(tmp_path / "seed-0")) == (
        "| `seed-0` | true | 20 | 0.025 | 0.925 | 0.410 → 0.594 | +18.4 pp [+11.8, +25.0] | 1e-07 | 5.00 → "
        "6.25 | 0.020 | 1.5 |"
    )
    plain = row(finished(tmp_path / "control", shuffled=True, evaluated=False))
    assert plain.startswith("| `control` | shuffled | 20 |")
    assert "not evaluated" in plain


def test_the_page_is_renewed_and_a_page_without_place_refused(tmp_path: Path) -> None:
    folders = [finished(tmp_path / "a"), finished(tmp_path / "b", shuffled=True)]
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    text = updated(page, folders)
    assert text == f"above\n{BEGIN}\n\n{table(folders)}\n\n{END}\nbelow\n"
    page.write_text(text)
    assert updated(page, folders) == text
    page.write_text("nothing")
    with pytest.raises(SummaryError, match=r"--page .* needs one line <!-- grpo:begin -->"):
        updated(page, folders)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["grpo-curves", str(tmp_path), "--picture", str(tmp_path / "x.png")])
    assert isinstance(done.exception, SummaryError)
    assert "name work folders of finished runs" in str(done.exception)


def test_the_page_agrees_with_the_committed_runs() -> None:
    page = ROOT / "docs" / "grpo.md"
    assert updated(page, sorted((ROOT / "results" / "grpo").iterdir())) == page.read_text()


def test_the_picture_names_axes_smoothing_and_colours(tmp_path: Path) -> None:
    folders = [finished(tmp_path / "a"), finished(tmp_path / "b", shuffled=True)]
    data = curves(folders)
    assert set(data["window"]) == {2}, "a tenth of 20 steps"
    drawn = figure(data)
    FigureCanvasAgg(drawn).draw()
    assert {axes.get_ylabel() for axes in drawn.axes} == {PANELS[name] for name in set(data["figure"])}
    assert drawn.axes[-1].get_xlabel() == "training step\n(each value: mean of the last 2 steps)"
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {TRAINED, CONTROL}
    shown = [text for text in drawn.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
    labels = [
        text for text in shown if text.get_text() in {*PANELS.values(), TRAINED, CONTROL, "a line per run"}
    ]
    boxes = [Text.get_window_extent(text) for text in labels]
    assert all(drawn.bbox.x0 <= box.x0 and box.y1 <= drawn.bbox.y1 for box in boxes)
    assert not any(box.overlaps(other) for box, other in combinations(boxes, 2))
