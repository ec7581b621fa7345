"""Run files that hold control bytes, line feeds, tags and markup: nothing takes them for its own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from harness.cli.sweep import _show
from harness.records.schema import Audit, AuditCheck, read_run, read_samples, write_run
from harness.runs.sweep import Job, Outcome, State
from reports.boards import boards
from reports.cli.report import verdicts
from reports.console import comparison, render
from reports.leaderboard import leaderboard
from reports.load import load
from reports.plots import PICTURE, stem, time_split
from reports.published import Published, markdown
from reports.site import single
from reports.table import build
from tests.synthetic_runs import Fake, write_fake

EVIL = (
    "x\x1b[2J\x07\n# heading\n| a | `b` <script>alert(1)</script> [/red] [link](http://evil) $\\frac$ \u202e"
    "{{samples}}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline, a run with hostile text in all that is shown, and one left out for such a reason."""
    folder = tmp_path_factory.mktemp("runs")
    write_fake(folder, Fake(documents=6))
    for audit in (True, False):
        made = write_fake(folder, Fake("d2f", {"a": audit}, documents=6))
        run = read_run(made)
        plan = run.plan.model_copy(
            update={"method": EVIL, "settings": {EVIL: EVIL}, "model": EVIL, "suite": EVIL}
        )
        update = {
            "plan": plan,
            "command": EVIL,
            "changed": {EVIL: EVIL},
            "comparability": {**run.comparability, EVIL: EVIL},
            "environment": {"cpu": EVIL, "versions": {EVIL: EVIL}, "git": {"commit": EVIL}},
            "audit": Audit(passed=audit, checks=[AuditCheck(name=EVIL, passed=audit, detail=EVIL)]),
        }
        write_run(made, run.model_copy(update=update))
        lines = [
            json.dumps({**sample.model_dump(mode="json"), "method": EVIL, "suite": EVIL})
            for sample in read_samples(made)
        ]
        (made / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def harmless(text: str, name: str) -> None:
    assert "\x1b" not in text, name
    assert "\x07" not in text, name
    assert "\u202e" not in text, name
    assert "\n# heading" not in text, name
    assert "\n| a |" not in text, name


def test_markdown(root: Path) -> None:
    text = leaderboard(load(root))
    harmless(text, "leaderboard")
    shown = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script>" not in shown
    assert "href=" not in shown
    assert "&lt;script&gt;" in shown
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {line.replace("\\|", "").count("|") for line in tables}
    assert len(columns) == 1


def test_terminal(root: Path) -> None:
    stored = load(root)
    out = io.StringIO()
    console = Console(file=out, width=400)
    console.print(render(stored))
    first, other = stored[0], next(run for run in stored if run.run.plan.method == EVIL)
    console.print(comparison(first, [(other, verdicts(first, [other], across=True)[0])]))
    harmless(out.getvalue(), "terminal")
    assert "[/red]" in out.getvalue()


def test_page(root: Path) -> None:
    found = boards(root, load(root))
    text = single(found, plots=False)
    assert "<script>alert" not in text
    assert text.count('id="file-samples/') == sum(
        len(table.rows) for board in found for table in board.tables
    )
    assert time_split(found[0].tables[0]) is not None


def test_a_suite_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    write_fake(tmp_path / "runs", Fake(documents=4))
    (table,) = build(load(tmp_path / "runs"))
    run = table.rows[0].stored.run
    run.plan = run.plan.model_copy(update={"suite": "../../out"})
    assert stem(table, PICTURE) == f".._.._out-{table.key[:6]}-{PICTURE}"


def test_published_figures() -> None:
    row = {"method": EVIL, "suite": EVIL, "device": EVIL, "engine": EVIL, "tps": 1.0}
    table = {"title": EVIL, "source": EVIL, "caveats": [EVIL], "rows": [row]}
    source = {"title": EVIL, "url": "javascript:alert(1)"}
    text = markdown(Published.model_validate({"sources": {EVIL: source}, "tables": [table]}))
    harmless(text, "published")
    shown = MarkdownIt("commonmark").enable("table").render(text)
    assert "href=" not in shown
    assert "<script>" not in shown


def test_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = Job(EVIL, ("run", EVIL))
    state = State(tmp_path)
    state.add(Outcome(cell.key, cell.label, "crashed", 1, 1.0, EVIL))
    _show([cell], state, tmp_path)
    state.close()
    harmless(capsys.readouterr().out, "sweep")
