"""``bench project``: bounds on a 7B model's tokens/s from the forwards that a run recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.records.printable import columns, in_console
from harness.records.schema import Run, read_run, read_samples
from reports.load import find_run
from reports.projection import Comparison, Projection, device_key, plain, project, roofline
from reports.published import PublishedRow, PublishedTable, read_published

# Which printed rows a run's method stands for, and those whose tokens per forward are 1 by construction.
PUBLISHED = {"ar": "ar", "vanilla": "{family}", "fast_dllm": "fastdllm", "d2f": "d2f"}
FAMILIES = {"dream-7b": "dream", "llada-8b": "llada"}
HERE = Path(__file__).resolve().parents[2] / "results" / "published.yaml"


def project_command(
    run: Annotated[str, typer.Argument(help="Run folder or run id.", metavar="RUN")],
    device: Annotated[
        str, typer.Option("--device", help="a100 (80 GB), a100-40, h100, h200; repeat with commas.")
    ] = "h100",
    model: Annotated[str, typer.Option("--model", "-m", help="dream-7b or llada-8b.")] = "dream-7b",
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            min=1,
            help="Prompt length to replay with; default: as recorded. 8-shot GSM8K: 900.",
        ),
    ] = None,
    root: Annotated[Path, typer.Option("--runs", help="Where run ids are looked up.")] = Path("runs"),
    published: Annotated[Path, typer.Option("--published", help="Published figures to compare with.")] = HERE,
) -> None:
    """Replay a run's forward passes against a GPU's roofline: at most so many tokens/s with a 7B model.

    **A bound, not a measurement**, and never part of a table of measured rows: every forward is taken to run
    at the memory bandwidth or matmul rate of the data sheet, and the large model to need the forwards that
    were recorded. Printed figures of the same model follow, with their share of the bound: how far real
    systems are off.

    Examples:

        bench project runs/cpu-x/nano-gsm/d2f-nano-gsm-0123456789 --device h100,a100

        bench project results/cpu-x/nano-code/vanilla-nano-code-0123456789 --device a100-40 --prompt-tokens
        900
    """

    folder = find_run(run, root)
    record, samples = read_run(folder), read_samples(folder)
    projections = [project(record, samples, name, model, prompt_tokens) for name in device.split(",")]
    console = Console(width=columns(140))
    _show(console, record, projections, prompt_tokens)
    _compare(console, record, projections, model, published)


def _show(console: Console, run: Run, projections: list[Projection], prompt_tokens: int | None) -> None:

    what = "as recorded" if prompt_tokens is None else f"prompt of {prompt_tokens} tokens"
    title = in_console(f"Upper bounds, not measurements: {run.plan.method} on {run.plan.suite} ({what})")
    table = Table(
        "device",
        "model",
        "TPS at most",
        "TPF",
        "forwards/s at most",
        "share of time memory-bound",
        title=title,
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for one in projections:
        rate = one.forwards / one.seconds
        table.add_row(
            one.device,
            one.model,
            f"{one.tps:.0f}",
            f"{one.tpf:.2f}",
            f"{rate:.0f}",
            f"{one.memory_bound:.0%}",
        )
    console.print(table)


def _compare(console: Console, run: Run, projections: list[Projection], model: str, path: Path) -> None:

    printed = read_published(path)
    if printed is None:
        console.print(f"no published figures at {path}: pass --published FILE to compare")
        return
    rows = [row for table in printed.tables for row in _rows(table, run, projections, model)]
    table = Table(
        *(
            "suite",
            "method",
            "device",
            "engine",
            "published TPS",
            "TPF",
            "share",
            "least TPF",
        ),
        title="Published figures against the bound (* TPF of this run, which may differ from theirs)",
        caption="TPS, TPF: tokens per second and per forward pass. Share: of the bound, which is this run's "
        "replayed forwards for its own method, the memory bandwidth alone for all others",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
    for column in table.columns:
        column.overflow = "fold"  # a name that is cut is of no use
    for row in rows:
        share, tpf = (
            ("-", "-")
            if row.share is None
            else (f"{row.share:.0%}", f"{row.tpf:.2f}{'*' if row.assumed else ''}")
        )
        table.add_row(
            *map(in_console, (row.suite, row.method, row.device, row.engine)),
            *(f"{row.tps:g}", tpf, share, f"{row.least_tpf:.2f}"),
        )
    console.print(table)
    console.print("0 rows for this model and device" if not rows else _off(rows))


def _off(rows: list[Comparison]) -> str:
    known = [row.share for row in rows if row.share is not None and not row.assumed]
    if not known:
        return "none of these rows prints its tokens per forward: no exact comparison"
    low, high = min(known), max(known)
    far = f"the bound is {1 / high:.1f} to {1 / low:.1f} times too high"
    return f"rows with known tokens per forward reach {low:.0%} to {high:.0%} of the bound: {far}"


def _rows(table: PublishedTable, run: Run, projections: list[Projection], model: str) -> list[Comparison]:

    family, found = FAMILIES[model], []
    for row in table.rows:
        printed = row.device or table.device or ""
        mine = next((one for one in projections if one.device == device_key(printed)), None)
        name = plain(row.method)
        related = family in name or family in plain(table.title) or (_is_ar(row) and family == "dream")
        if mine is None or not related:
            continue
        tpf, assumed = _tpf(row, run.plan.method, family, mine.tpf)
        # The replay knows the windows of this run's method alone; other methods get what no window can beat.
        replayed = mine.forwards / mine.seconds if _same(row, run.plan.method, family) else None
        rate = replayed or 1 / roofline(mine.device, model).seconds([(1, 0)])
        suite, engine = row.suite or table.suite or "-", row.engine or table.engine or "-"
        found.append(Comparison(suite, row.method, printed, engine, row.tps, tpf, assumed, rate))
    return found


def _is_ar(row: PublishedRow) -> bool:
    return "(ar)" in row.method.lower()


def _tpf(row: PublishedRow, method: str, family: str, measured: float) -> tuple[float | None, bool]:
    """(tokens per forward, whether it is this run's): printed, 1 for one token per forward, this run's for
    the same method.
    """

    if row.tpf is not None:
        return row.tpf, False
    if _is_ar(row) or plain(row.method) == family:
        return 1.0, False
    return (measured, True) if _same(row, method, family) else (None, False)


def _same(row: PublishedRow, method: str, family: str) -> bool:
    """Whether a printed row is of the run's method; vanilla rows are printed under the model's name alone."""

    name, pattern = plain(row.method), PUBLISHED.get(method, plain(method)).format(family=family)
    if method == "ar":
        return _is_ar(row)
    return name == pattern if pattern == family else name.startswith(pattern)
