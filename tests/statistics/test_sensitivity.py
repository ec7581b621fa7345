"""Rank changes between prompts, from stored runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.schema import read_run, read_samples, write_run
from reports import sensitivity
from reports.boards import Board
from reports.leaderboard import leaderboard
from reports.load import load
from reports.sensitivity import rank, reversed_pairs, tau
from reports.site import single
from reports.table import build
from tests.synthetic_runs import Fake, write_fake

SOLVED = {
    "default": {"vanilla": 18, "d2f": 12, "ar": 15},
    "words": {"vanilla": 16, "d2f": 10, "ar": 12},
    "spaced": {"vanilla": 4, "d2f": 10, "ar": 2},
}


def write(root: Path, template: str, method: str, solved: int) -> None:
    """A run of 20 problems under one template, the first ``solved`` of them right."""
    folder = write_fake(root / template, Fake(method, documents=20))
    run = read_run(folder)
    told = {"prompts_hash": template, **({"template": template} if template != "default" else {})}
    changed = {"comparability_key": f"key-{template}", "comparability": {**run.comparability, **told}}
    write_run(folder, run.model_copy(update=changed))
    samples = [
        sample.model_copy(update={"correct": sample.doc_id < solved}) for sample in read_samples(folder)
    ]
    (folder / "samples.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for template, methods in SOLVED.items():
        for method, solved in methods.items():
            write(tmp_path, template, method, solved)
    return tmp_path


def test_ranks_and_tau_by_hand() -> None:
    assert rank([0.9, 0.5, 0.9, 0.1]) == [1, 3, 1, 4]
    assert tau([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert tau([1, 1, 1], [1, 2, 3]) is None, "no order on one side"
    assert reversed_pairs([1, 2, 3], [3, 2, 1]) == (3, 3)
    assert reversed_pairs([1, 2, 2], [1, 2, 1]) == (0, 1), "ties are no order"


def test_one_table_over_the_prompts(runs: Path) -> None:
    (found,) = sensitivity.find(build(load(runs)))
    head, *lines = found.grid()
    assert head == ["method", "suite's own", "template spaced", "template words", "range (pp)"]
    assert {line[0]: line[1:] for line in lines} == {
        "vanilla": ["90.0 (1)", "20.0 (2)", "80.0 (1)", "70.0"],
        "ar": ["75.0 (2)", "10.0 (3)", "60.0 (2)", "65.0"],
        "d2f": ["60.0 (3)", "50.0 (1)", "50.0 (3)", "10.0"],
        "tau": ["1.00", "-0.33", "1.00", ""],
        "reversed": ["0 of 3", "2 of 3", "0 of 3", ""],
    }


def test_the_reports_show_it_and_name_each_prompt(runs: Path) -> None:
    stored = load(runs)
    text = leaderboard(stored)
    assert "## nano-gsm: does the order of methods depend on the prompt?" in text
    assert "| tau | 1.00 | -0.33 | 1.00 |  |" in text
    assert "## nano-gsm, template words, 20 problems" in text
    page = single([Board("runs", stored, build(stored))], samples_per_run=0, plots=False)
    assert "<td class=n>-0.33</td>" in page


def test_a_method_that_misses_a_prompt_is_left_out_and_one_prompt_says_nothing(runs: Path) -> None:
    write(runs, "default", "lopa", 5)
    (found,) = sensitivity.find(build(load(runs)))
    assert sorted(found.labels) == ["ar", "d2f", "vanilla"]
    assert sensitivity.find(build(load(runs / "default"))) == []
