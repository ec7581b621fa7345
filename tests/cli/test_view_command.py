"""``bench view``: prompts of the installed suites, files on disk, and mistakes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli import view
from harness.cli.view import questions, view_command
from harness.records.files import digest
from harness.records.schema import Sample
from harness.statistics.summary import summarise
from reports.load import StoredRun, load
from reports.table import Table, build
from tests.synthetic_runs import Fake, fake_run, fake_samples, write_fake

app = typer.Typer()
app.command("view")(view_command)


class Suite:
    """A suite of two problems, its own or a third party's."""

    def __init__(self, embedded: bool) -> None:
        self.embedded = embedded

    def docs(self) -> list[tuple[int, dict[str, str]]]:
        return [(0, {"text": "one"}), (1, {"text": "two"}), (2, {"text": "never asked"})]

    def prompt(self, doc: dict[str, str]) -> str:
        return f"Q: {doc['text']}"

    def reference(self, doc: dict[str, str]) -> str:
        return f"#### {doc['text']}"


def table(*prompts: str) -> Table:
    """A table of one run whose problems were asked with the given prompts."""
    samples: list[Sample] = [
        sample.model_copy(update={"prompt_hash": digest(prompt)})
        for sample, prompt in zip(fake_samples(Fake(documents=len(prompts))), prompts, strict=True)
    ]
    run = fake_run(Fake(documents=len(prompts)), samples)
    (made,) = build([StoredRun(Path("run"), run, samples, summarise(samples))])
    return made


def test_prompts_are_shown_where_their_hash_is_the_stored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "load_suite", lambda *_: Suite(True))
    found = questions(table("Q: one", "Q: another"))
    assert found == {"problem": None, "documents": {"0": {"prompt": "Q: one", "reference": "#### one"}}}
    assert "writes other prompts than this run had" in questions(table("x", "y"))["problem"]


def test_third_parties_problems_are_served_but_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "load_suite", lambda *_: Suite(False))
    assert set(questions(table("Q: one", "Q: two"))["documents"]) == {"0", "1"}
    written = questions(table("Q: one", "Q: two"), shipped=True)
    assert written["documents"] == {}
    assert "not copied to files" in written["problem"]


def test_suites_that_are_not_installed_are_named(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(suite="nowhere", documents=2))
    (made,) = build(load(tmp_path))
    assert "no suite called 'nowhere'" in questions(made)["problem"]


def test_the_page_is_written_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "questions", lambda *_, **__: {"problem": None, "documents": {}})
    runs = tmp_path / "runs"
    write_fake(runs, Fake(documents=2))
    monkeypatch.setattr("reports.site.drawable", lambda _: [])
    result = CliRunner().invoke(app, [str(runs), "-o", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f"1 runs below {runs}: tables are built",
        f"{tmp_path / 'page' / 'index.html'}",
    ]
    names = sorted(path.parent.name for path in (tmp_path / "page").rglob("*.js"))
    assert names == ["questions", "samples"]


def test_a_taken_port_is_answered_with_the_flag(tmp_path: Path) -> None:
    write_fake(tmp_path, Fake(documents=2))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(app, [str(tmp_path), "--port", str(taken.getsockname()[1])])
    assert "choose another with --port" in str(result.exception)
