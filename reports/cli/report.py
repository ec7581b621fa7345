"""``bench report``, ``bench compare`` and ``bench trace``: from stored runs only, no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import UserError
from harness.records.files import write_atomic
from harness.records.schema import read_samples
from harness.statistics.verdict import Verdict, adjust, verdict
from reports.boards import Board
from reports.cli.options import PublishedFigures
from reports.console import comparison
from reports.front import Front, read_front
from reports.leaderboard import leaderboard
from reports.load import StoredRun, find_run, load, read_stored
from reports.published import read_published
from reports.table import build

FORMATS = ("markdown", "csv", "plots", "html")


class ReportOptionError(UserError, ValueError):
    """A flag of ``bench report`` or ``bench compare`` that cannot be followed."""


def report_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders with runs, searched at any depth (what `bench run --output_path` or `bench submit` "
            "wrote); default runs. Several need --output.",
            metavar="[PATH]...",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to; default PATH/report.")
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option(
            "--readme",
            help="Markdown file whose block between <!-- leaderboard:begin --> and <!-- leaderboard:end --> "
            "is replaced.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option("--rows", help="YAML with the few rows that --readme shows; default the whole board."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; exit 1 with a diff if the report (or --readme) disagrees with the runs.",
        ),
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help=f"What to write, repeatable: {', '.join(FORMATS)}; default all of them."
        ),
    ] = None,
    published: PublishedFigures = None,
    viewer_samples: Annotated[
        int | None,
        typer.Option(
            "--viewer-samples", min=0, help="Samples of each run that the page can replay; default all."
        ),
    ] = None,
) -> None:
    """Turn stored runs into a leaderboard, plots and a page that replays how answers were written.

    Every table holds runs of one comparability key (same prompts, weights, dtype, canvas, stop rule, batch,
    device), protocol and machine, and rows of a submission stand by themselves; speed-ups are paired per
    problem against the vanilla run with the most forwards. Runs that are incomplete or failed their audit are
    listed below the tables, never in them. A README shows each table's picture of quality against speed too,
    once the report with its plots is written.

    `bench report` reads runs/ and writes runs/report/; `bench report results/leaderboard --readme README.md
    --check` is the drift test of a README.
    """
    from reports.readme import updated  # draws: a second of imports that --help need not wait for

    chosen = _formats(formats)
    if rows is not None and readme is None:
        raise ReportOptionError("--rows chooses what --readme shows: give --readme too")
    front = None if rows is None else read_front(rows)
    path, *further = paths or [Path("runs")]
    if further and output is None:
        raise ReportOptionError(f"several folders make one report: say where with --output, not in {path}")
    runs = load(path, *further)
    target, apart = output or path / "report", published or path / "published.yaml"
    if check:
        _check(runs, target, readme, apart, front)
        return
    written = (
        _write(path, runs, target, chosen, apart, viewer_samples)
        if readme is None or output is not None or formats
        else []
    )
    if readme is not None:
        written.append(_save(readme, updated(readme, runs, target / "plots", front), "--readme"))
    for file in written:
        typer.echo(file)


def compare_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more run folders or run ids; the first is the baseline.", metavar="RUN RUN..."
        ),
    ],
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="Loss of pass@1, in percentage points, that still counts as non-inferior."
        ),
    ] = 3.0,
    root: Annotated[Path, typer.Option("--runs", help="Where run ids are looked up.")] = Path("runs"),
    across: Annotated[
        bool,
        typer.Option(
            "--across", help="Compare although the configurations differ; the differences are printed."
        ),
    ] = False,
) -> None:
    """Compare runs problem by problem with the first one: speed-up, accuracy, and whether the samples suffice
    to say so.

    Prints the paired speed-up with its bootstrap interval, exact McNemar and the paired-bootstrap difference
    of pass@1, the non-inferiority verdict at --margin, and how many problems would decide what these cannot.
    p-values are Holm-adjusted over the runs given.
    """

    if len(runs) < 2:
        raise ReportOptionError("compare needs at least two runs: give the baseline first, then the others")
    baseline, *others = (read_stored(find_run(name, root)) for name in runs)
    Console().print(
        comparison(baseline, list(zip(others, verdicts(baseline, others, margin, across), strict=True)))
    )


def verdicts(
    baseline: StoredRun, others: Sequence[StoredRun], margin: float = 3.0, across: bool = False
) -> list[Verdict]:
    """Each run against the baseline, p-values adjusted over all of them; ``margin`` in percentage points.

    ReportOptionError for a margin that is none, and for runs that may not be compared.
    """
    if not 0 < margin < 100:
        raise ReportOptionError(f"--margin {margin:g} must lie between 0 and 100 percentage points")
    for other in others:
        _require_same(baseline, other, across)
    return adjust([verdict(baseline.samples, other.samples, margin=margin / 100) for other in others])


def trace_command(
    run: Annotated[str, typer.Argument(help="Run folder or run id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Animation to write, .gif or .webp.")] = Path(
        "trace.gif"
    ),
    doc: Annotated[int, typer.Option("--doc", help="Document number within the suite.")] = 0,
    repeat: Annotated[int, typer.Option("--repeat", help="Which repeat of the document.")] = 0,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, help="Playing time, last frame not counted.")
    ] = 6.0,
    root: Annotated[Path, typer.Option("--runs", help="Where run ids are looked up.")] = Path("runs"),
) -> None:
    """Export how one stored answer was written as an animation, a frame per forward pass.

    The page of `bench report` replays every stored answer, two methods side by side; this is for slides and
    READMEs.
    """
    from reports.trace import animate

    folder = find_run(run, root)
    samples = {(sample.doc_id, sample.repeat): sample for sample in read_samples(folder)}
    if (doc, repeat) not in samples:
        known = sorted({document for document, _ in samples})
        raise ReportOptionError(
            f"{folder.name} has no document {doc} repeat {repeat}: choose --doc from {_ranges(known)}, and "
            "--repeat"
        )
    typer.echo(f"{output}: {animate(samples[doc, repeat], output, seconds=seconds)} frames")


def _ranges(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    return (
        f"{numbers[0]}-{numbers[-1]}"
        if numbers == list(range(numbers[0], numbers[-1] + 1))
        else ", ".join(map(str, numbers[:20]))
    )


def _formats(formats: list[str] | None) -> list[str]:
    chosen = formats or list(FORMATS)
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise ReportOptionError(f"--format {unknown[0]} is unknown; use {', '.join(FORMATS)}")
    return chosen


def _check(
    runs: list[StoredRun], target: Path, readme: Path | None, published: Path, front: Front | None
) -> None:
    from reports.drift import drift
    from reports.readme import check

    found = (
        drift(target, runs, read_published(published))
        if readme is None
        else check(readme, runs, target / "plots", front)
    )
    if found:
        typer.echo(found)
        raise typer.Exit(1)
    typer.echo(f"{readme or target} agrees with {len(runs)} runs")


def _write(
    root: Path,
    runs: list[StoredRun],
    target: Path,
    formats: list[str],
    published: Path,
    viewer_samples: int | None,
) -> list[Path]:
    from reports.drift import csv
    from reports.plots import write
    from reports.site import site
    from reports.site import write as write_site

    apart = read_published(published)
    # All runs are one board here, however deep they lie: its tables are those of the Markdown.
    tables = build(runs)
    board = Board(root.resolve().name, runs, tables)
    try:
        target.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        if "markdown" in formats:
            written.append(
                _save(
                    target / "leaderboard.md", leaderboard(runs, published=apart, tables=tables), "--output"
                )
            )
        if "csv" in formats and tables:
            written.append(_save(target / "leaderboard.csv", csv(tables), "--output"))
        if "plots" in formats:
            written += [file for table in tables for file in write(table, target / "plots")]
        if "html" in formats:
            # The pictures are there already where plots were asked for.
            files = site([board], apart, viewer_samples)
            made = write_site(files, target, ("plots/",) if "plots" in formats else ())
            beside = len([file for file in made if file.parent.name == "samples"])
            written += [file for file in made if file.parent.name != "samples"]
            typer.echo(f"{target / 'samples'}: the answers of {beside} rows, which the page loads when asked")
    except OSError as error:
        raise ReportOptionError(
            f"cannot write to {target} ({error.strerror}): choose another folder with --output"
        ) from None
    return written


def _save(path: Path, text: str, flag: str) -> Path:

    try:
        write_atomic(path, text)
    except OSError as error:
        raise ReportOptionError(
            f"cannot write {path} ({error.strerror}): choose another place with {flag}"
        ) from None
    return path


def _require_same(baseline: StoredRun, other: StoredRun, across: bool) -> None:
    """Refuse to compare runs of different configurations or without a prompt in common."""
    hashes = {sample.doc_id: sample.prompt_hash for sample in baseline.samples}
    if not any(hashes.get(sample.doc_id) == sample.prompt_hash for sample in other.samples):
        raise ReportOptionError(
            f"{other.run.run_id} and {baseline.run.run_id} have no prompt in common: compare runs of one "
            "suite and template"
        )
    mine, theirs = ({**one.run.comparability, **one.conditions} for one in (other, baseline))
    differing = [
        f"{name} ({theirs.get(name)} / {mine.get(name)})"
        for name in {**theirs, **mine}
        if theirs.get(name) != mine.get(name)
    ]
    if differing:
        text = (
            f"{other.run.run_id} was run under another configuration than {baseline.run.run_id}: "
            f"{', '.join(differing)}"
        )
        if not across:
            raise ReportOptionError(f"{text}; add --across to compare all the same")
        typer.echo(f"note: {text}", err=True)
