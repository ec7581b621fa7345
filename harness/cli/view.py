"""``bench view``: the page of all boards below a folder, served to this machine or written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import UserError
from harness.records.files import digest
from harness.runs.suite import FEWSHOT_SEED, Rendering
from reports.boards import boards
from reports.cli.options import PublishedFigures
from reports.load import load
from reports.published import read_published
from reports.serve import Server
from reports.table import Table
from suites.suite import load_suite


class ViewError(UserError, ValueError):
    """A flag of ``bench view`` that cannot be followed."""


def view_command(
    path: Annotated[
        Path, typer.Argument(help="Folder with runs, searched at any depth; each folder of runs is a board.")
    ] = Path("runs"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0: any free one.")
    ] = 8765,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the page with its files to this folder and end; needs no server."
        ),
    ] = None,
    published: PublishedFigures = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir",
            help="Folder with the data sets as JSONL, for their prompts (default: the variable BENCH_DATA).",
        ),
    ] = None,
) -> None:
    """Look at stored runs: tables to filter and sort, every sample with prompt, reference and program, where
    two methods disagree, and how answers were written.

    Rows, samples and filters have addresses of their own to send around. Prompts and references are those of
    the installed suites, shown only where their hash is the one that the run stored. What --output writes
    holds them for the suites that ship with this package alone, and opens from its folder without a server.
    """
    from reports.site import site, write  # with what draws pictures

    runs = load(path)
    typer.echo(f"{len(runs)} runs below {path}: tables are built")
    found = boards(path, runs)
    apart = read_published(published or path / "published.yaml")
    ask = partial(questions, data_dir=data_dir, shipped=output is not None)
    files = site(found, apart, ask=ask)
    if output is not None:
        try:
            write(files, output)
        except OSError as error:
            raise ViewError(
                f"cannot write to {output} ({error.strerror}): choose another folder with --output"
            ) from None
        typer.echo(output / "index.html")
        return
    try:
        server = Server(files, port)
    except OSError as error:
        raise ViewError(
            f"cannot listen on port {port} ({error.strerror}): choose another with --port"
        ) from None
    typer.echo(f"{server.address}  (Ctrl-C ends)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


def questions(table: Table, data_dir: str | None = None, shipped: bool = False) -> Mapping[str, Any]:
    """Prompt and reference of each document of a table, from the installed suite: {problem, documents}.

    ``problem`` says why there are none (None: there are); ``shipped``: of suites whose documents ship with
    this package alone. A prompt whose hash no sample has is left out with its reference.
    """
    plan = table.rows[0].stored.run.plan
    hashes = {(one.doc_id, one.prompt_hash) for row in table.rows for one in row.stored.samples}
    wanted = {document for document, _ in hashes}
    rendering = Rendering(plan.template, plan.num_fewshot, plan.fewshot_seed or FEWSHOT_SEED)
    try:
        suite = load_suite(plan.suite, data_dir, rendering)
        if shipped and not suite.embedded:
            return _unknown("A third party's problems are not copied to files; `bench view` shows them.")
        asked = {number: (doc, suite.prompt(doc)) for number, doc in suite.docs() if number in wanted}
        documents = {
            str(number): {"prompt": prompt, "reference": suite.reference(doc)}
            for number, (doc, prompt) in asked.items()
            if (number, digest(prompt)) in hashes
        }
    except UserError as error:
        return _unknown(str(error))
    if not documents:
        return _unknown(
            "The installed suite writes other prompts than this run had: a chat template, other data or "
            "another version."
        )
    return {"problem": None, "documents": documents}


def _unknown(problem: str) -> Mapping[str, Any]:
    return {"problem": problem, "documents": {}}
