"""Commands about suites: `bench suite list`, `bench suite show`, `bench grade` and `bench score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.records.printable import printable
from suites.grading import grade_file, run_suite_name, score_run
from suites.suite import SuiteError, list_suites, load_suite

suite_app = typer.Typer(help="What the suites ask and how they are scored.", no_args_is_help=True)

DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", help="Folder with the data sets as JSONL (default: the variable BENCH_DATA)."),
]
Unsafe = Annotated[
    bool, typer.Option("--allow-unsafe-code", help="Run programs unprotected where nothing isolates them.")
]


@suite_app.command("list")
def list_command() -> None:
    """All suites, one a line."""

    for name in list_suites():
        typer.echo(f"{name:<34} {load_suite(name).title}")


@suite_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="Name of the suite.")],
    doc: Annotated[int, typer.Option("--doc", help="Document to show.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """The exact prompt of one document, and how its answer is scored."""

    suite = load_suite(name, data_dir)
    documents = dict(suite.docs())
    if doc not in documents:
        raise SuiteError(f"{name} has documents 0 to {len(documents) - 1}, not {doc}")
    typer.echo(f"{suite.name}: {suite.title} ({len(documents)} documents)")
    typer.echo(
        f"document {doc}, prompt between the lines:\n{'-' * 80}\n{suite.prompt(documents[doc])}\n{'-' * 80}"
    )
    for label, value in _scoring(suite).items():
        typer.echo(f"{label}: {value}")
    for repair in suite.repairs:
        typer.echo(f"differs from the stock task: {repair}")


def _scoring(suite: Any) -> dict[str, Any]:
    metric, filter_name = suite.headline
    rows: dict[str, Any] = {"score": f"{metric}, filter {filter_name or 'none'}"}
    if suite.scorer is not None:
        limits = suite.scorer.limits
        rows["programs"] = (
            f"run in a jail, {limits.seconds:g} s and {limits.memory_mb} MB each; all tests must pass"
        )
    rows["stop strings"] = json.dumps(suite.stop) if suite.stop else "none (end of text only)"
    rows["canvas"] = f"{suite.canvas} new tokens by default"
    if suite.blocks:
        rows["canvas"] = "{} tokens of reasoning, {} of answer, each with an end-of-text of its own".format(
            *suite.blocks
        )
    if suite.templates:
        rows["templates"] = ", ".join(("default", *suite.templates))
    rows["frozen"] = ", ".join(f"{key} {value}" for key, value in suite.frozen.items())
    return rows


def grade_command(
    file: Annotated[
        Path, typer.Argument(help='JSONL: {"doc_id": 0, "program": "..."} or {"doc_id": 0, "text": "..."}.')
    ],
    suite: Annotated[str, typer.Option("--suite", help="Suite that the answers belong to.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Write doc_id, grading and correct of every line here.")
    ] = None,
    data_dir: DataDir = None,
    allow_unsafe_code: Unsafe = False,
) -> None:
    """Grade programs or answers that were made elsewhere."""

    _print_score(suite, grade_file(load_suite(suite, data_dir), file, output, allow_unsafe_code))


def score_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run (with run.json and samples.jsonl).")],
    data_dir: DataDir = None,
    allow_unsafe_code: Unsafe = False,
) -> None:
    """Grade a run's stored answers again, without decoding."""

    name = run_suite_name(run)
    result, changed = score_run(run, load_suite(name, data_dir), allow_unsafe_code)
    _print_score(name, result)
    for line, grade in changed:
        told = f"doc {line['doc_id']}: was {line.get('grading')}, is now {grade.grading} ({grade.detail})"
        typer.echo(printable(told))
    typer.echo(f"{len(changed)} verdicts differ from the stored ones")


def _print_score(name: str, result: Any) -> None:
    typer.echo(f"{name}: {result.correct} of {result.graded} correct, {result.documents} documents")
    typer.echo("gradings: " + ", ".join(f"{key} {count}" for key, count in sorted(result.gradings.items())))
    if result.pass_at:
        typer.echo(", ".join(f"pass@{k} {rate:.4f}" for k, rate in result.pass_at.items()))
