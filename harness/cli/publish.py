"""``bench submit`` and ``bench verify``: a row on its way into a pull request, and what is held against it
there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def submit_command(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run folders or run ids, the vanilla row among them.", metavar="RUN..."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New folder to write; default below results/submissions."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Who submits; default the name that git knows.")
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="How the settings were chosen, in one sentence.")
    ] = None,
    root: Annotated[Path, typer.Option("--runs", help="Where run ids are looked up.")] = Path("runs"),
) -> None:
    """Check stored runs and write them to a folder for a pull request.

    The samples are packed, and a manifest has the hash of every file. Nothing is written unless every check
    passes. Give the rows of one machine together, its vanilla row included: rows of two submissions never
    share a table.

    Example:  bench submit runs/cpu-intel-xeon-processor --note "threshold chosen on validation problems"
    """
    from harness.cli.submitting import submit

    if not submit(runs, output, by, note, root):
        raise typer.Exit(1)


def verify_command(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `bench submit` wrote.", metavar="FOLDER...")
    ],
    no_grade: Annotated[
        bool, typer.Option("--no-grade", help="Do not grade the answers again in the jail.")
    ] = False,
    no_manifest: Annotated[
        bool,
        typer.Option(
            "--no-manifest", help="Folders with runs of the project's own boards, which have no manifest."
        ),
    ] = False,
) -> None:
    """Compute a submission anew and compare it with what it says.

    That is: manifest and hashes, every summary figure from the samples, audit, prompts, texts from ids, and
    the grades of suites that ship with this package. Prints a line per check and exits with 1 if one is
    refused. Nothing in the folder is believed, run or followed. What no check can see: times or whole samples
    that were invented, with every figure and hash made to fit; who doubts a row gives its command again.

    Example:  bench verify results/submissions/cpu-intel-xeon-processor-0123abcd
    """
    from harness.cli.submitting import verify

    if not verify(folders, grade=not no_grade, manifest=not no_manifest):
        raise typer.Exit(1)
