"""Grading of files made elsewhere and of stored runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harness.sandbox import launch
from suites.cli import grade_command, score_command, suite_app
from suites.grading import GradingError, grade_file, score_run
from suites.suite import load_suite

pytestmark = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_programs_and_texts_are_graded_and_written(tmp_path: Path) -> None:
    suite = load_suite("humaneval")
    lines: list[dict[str, Any]] = []
    for doc_id, doc in suite.docs(limit=4):
        lines.append({"doc_id": doc_id, "program": doc["prompt"] + doc["canonical_solution"]})
        lines.append(
            {"doc_id": doc_id, "text": doc["canonical_solution"] + "\nprint('more text after a stop string"}
        )
        lines.append({"doc_id": doc_id, "text": "    return None\n"})
        lines.append({"doc_id": doc_id, "program": "import os\nos._exit(0)\n"})
    output = tmp_path / "graded.jsonl"
    result = grade_file(suite, write(tmp_path / "answers.jsonl", lines), output)
    assert (result.graded, result.correct, result.documents) == (16, 8, 4)
    assert result.pass_at[1] == pytest.approx(0.5)
    assert result.pass_at[2] == pytest.approx(1 - 1 / 6)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [line["doc_id"] for line in lines]
    assert [row["correct"] for row in rows] == [True, True, False, False] * 4
    assert [row["grading"] for row in rows] == ["passed", "passed", "failed", "crashed"] * 4


def test_answers_that_are_not_programs(tmp_path: Path) -> None:
    suite = load_suite("nano-gsm")
    lines = [{"doc_id": doc_id, "text": doc["response"]} for doc_id, doc in suite.docs(limit=5)]
    assert grade_file(suite, write(tmp_path / "a.jsonl", lines)).correct == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"doc_id": 9999, "text": ""}', "doc_id 9999"),
        ('{"doc_id": 0}', "needs"),
        ("[1]", "line 1 holds .* where an object is wanted"),
        ("{", "line 1 is no valid JSON"),
        ("", "no lines"),
        ('{"doc_id": [0], "text": ""}', "doc_id"),
        ('{"doc_id": 0, "text": "\\ud800"}', "line 1 is no valid JSON .*half a character"),
        ("[" * 100_000, "line 1 is no valid JSON .*nested"),
        ("\xff", "line 1 is no valid JSON"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GradingError, match=message):
        grade_file(load_suite("humaneval"), path)


def stored_run(folder: Path) -> Path:
    suite = load_suite("nano-code")
    samples = []
    for doc_id, doc in suite.docs(limit=6):
        text = doc["response"] if doc_id % 2 == 0 else "    return 12345"
        samples.append(
            {"doc_id": doc_id, "text": text, "program": "x", "correct": doc_id % 2 == 0, "grading": "passed"}
        )
    samples[0]["correct"] = False
    (folder / "run.json").write_text(json.dumps({"plan": {"suite": "nano-code"}}))
    write(folder / "samples.jsonl", samples)
    return folder


def test_stored_samples_are_graded_again(tmp_path: Path) -> None:
    result, changed = score_run(stored_run(tmp_path), load_suite("nano-code"))
    assert (result.graded, result.correct) == (6, 3)
    assert [(line["doc_id"], grade.correct) for line, grade in changed] == [(0, True)]


def test_commands(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("grade")(grade_command)
    app.command("score")(score_command)
    app.add_typer(suite_app, name="suite")
    run = CliRunner()
    shown = run.invoke(app, ["suite", "show", "humaneval", "--doc", "3"])
    assert shown.exit_code == 0, shown.output
    assert load_suite("humaneval").docs()[3][1]["prompt"] in shown.output
    assert "pass@1" in shown.output
    assert "gsm8k_cot" in run.invoke(app, ["suite", "list"]).output
    scored = run.invoke(app, ["score", str(stored_run(tmp_path))])
    assert "nano-code: 3 of 6 correct" in scored.output
    assert "1 verdicts differ" in scored.output
    path = write(
        tmp_path / "a.jsonl", [{"doc_id": 0, "text": load_suite("nano-code").docs()[0][1]["response"]}]
    )
    graded = run.invoke(
        app, ["grade", str(path), "--suite", "nano-code", "--output", str(tmp_path / "o.jsonl")]
    )
    assert "1 of 1 correct" in graded.output
    assert json.loads((tmp_path / "o.jsonl").read_text())["correct"] is True


def test_exact_match_grades_can_be_written_as_json(tmp_path: Path) -> None:
    doc = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    for split in ("train", "test"):
        write(tmp_path / "gsm8k" / f"{split}.jsonl", [doc] * 6)
    app = typer.Typer()
    app.command("grade")(grade_command)
    app.command("score")(score_command)
    path = write(
        tmp_path / "a.jsonl", [{"doc_id": 0, "text": doc["answer"]}, {"doc_id": 1, "text": "#### 6"}]
    )
    flags = ["--suite", "gsm8k", "--data-dir", str(tmp_path), "--output", str(tmp_path / "o.jsonl")]
    graded = CliRunner().invoke(app, ["grade", str(path), *flags])
    assert "1 of 2 correct" in graded.output
    assert [json.loads(line)["correct"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == [
        True,
        False,
    ]
