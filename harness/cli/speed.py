"""``bench speed``: forward passes of a shape with random weights, against the roof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.cli.bars import counting
from harness.cli.options import STORING, TIMING, OutputPath, Threads
from harness.engine.flags import Attention, Compile, Device, Dtype
from harness.errors import Interrupted, UserError
from harness.records.printable import columns
from harness.records.schema import find_runs
from harness.records.speed import find_tables

if TYPE_CHECKING:
    from harness.runs.speed import Table

CELLS, REPLAY = "Cells", "Replay"


class SpeedFlagError(UserError, ValueError):
    """A flag of ``bench speed`` that cannot be followed."""


def speed_command(
    shape: Annotated[
        str,
        typer.Option(
            "--shape", help="dream7b, llada8b, qwen3-0.6b or nano; weights are random, nothing is fetched."
        ),
    ] = "nano",
    layers: Annotated[
        int | None,
        typer.Option("--layers", min=1, help="Build the first N layers only; the table says so."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    attention: Attention = "auto",
    compiled: Compile = False,
    rows: Annotated[
        str, typer.Option("--rows", help="Rows that share a pass, comma-separated.", rich_help_panel=CELLS)
    ] = "1",
    query: Annotated[
        str,
        typer.Option("--query", help="Positions fed per row, comma-separated.", rich_help_panel=CELLS),
    ] = "1,8,32,128,512",
    cached: Annotated[
        str,
        typer.Option(
            "--cached", help="Stored positions per row that are attended to.", rich_help_panel=CELLS
        ),
    ] = "0,128,1024",
    logits: Annotated[
        int,
        typer.Option(
            "--logits",
            min=1,
            help="Positions per row that get logits, at most (a block, as decoders ask).",
            rich_help_panel=CELLS,
        ),
    ] = 32,
    block_size: Annotated[
        int | None,
        typer.Option(
            "--block_size",
            "--block-size",
            min=1,
            help="Block-causal attention from the end of the prompt (D2F's); default: full.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            "--replay",
            help="Stored runs (a run folder, or one with several; repeatable) whose windows are forced on "
            "the shape instead of a grid of cells.",
            rich_help_panel=REPLAY,
        ),
    ] = None,
    answers: Annotated[
        int,
        typer.Option(
            "--answers", min=1, help="Answers replayed of each run, at least.", rich_help_panel=REPLAY
        ),
    ] = 8,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens",
            "--prompt_tokens",
            min=1,
            help="Prompt length to replay with; default: as recorded. 8-shot GSM8K: 900.",
            rich_help_panel=REPLAY,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", min=1, help="Visits to each cell, all in turn, A B B A.", rich_help_panel=TIMING
        ),
    ] = 3,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Timed calls per visit.", rich_help_panel=TIMING)
    ] = 5,
    threads: Threads = None,
    output_path: OutputPath = Path("speed"),
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Measure again what is stored.", rich_help_panel=STORING),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Measure nothing: check every stored table below --output_path, and write table, plots and "
            "page anew.",
            rich_help_panel=STORING,
        ),
    ] = False,
) -> None:
    """Time forward passes of a model's shape over (rows, query, cached), and say how near the roof they are.

    Weights are random, so no checkpoint is needed: any machine can add its row to results/speed. With
    --replay the windows of stored runs are forced on the shape: seconds per answer and tokens/s of each
    decoder, had it needed these forward passes; its own code between them is left out.

    Examples:

        bench speed --shape dream7b --device cuda --rows 1,16 -o results/speed

        bench speed --shape dream7b --layers 2 --query 1,32 --cached 0,128

        bench speed --shape dream7b --replay results/leaderboard/cpu-intel-xeon-processor/nano-gsm --rows 1,16
    """
    from reports.speed import grid, load_speed
    from reports.speed_page import write_report

    if not report:
        import torch

        from harness.model.device import pick_device, pick_dtype
        from harness.runs.speed import Asked, Table

        if threads is not None:
            torch.set_num_threads(threads)
        where = pick_device(device)
        asked = Asked(
            shape,
            layers,
            pick_dtype(dtype, where),
            where,
            _numbers(rows, "--rows", 1),
            _numbers(query, "--query", 1),
            _numbers(cached, "--cached", 0),
            logits,
            block_size,
            rounds,
            repeats,
            _runs(replay or []),
            answers,
            prompt_tokens,
            attention,
            compiled,
        )
        folder = _measure(Table(asked), output_path, fresh)
        Console(width=columns(140)).print(*map(grid, load_speed(folder)))
    elif not find_tables(output_path):
        raise SpeedFlagError(f"no speed tables below {output_path}: give the folder with --output_path")
    for file in write_report(load_speed(output_path), output_path / "report"):
        typer.echo(file)


def _numbers(text: str, flag: str, least: int) -> list[int]:
    """Ascending distinct numbers of a comma-separated list."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise SpeedFlagError(f"{flag} {text!r}: give whole numbers, comma-separated, such as 1,16") from None
    if found[0] < least:
        raise SpeedFlagError(f"{flag} {text!r}: numbers below {least} make no forward pass")
    return found


def _runs(paths: list[Path]) -> list[Path]:
    """Run folders below the paths, each once."""
    found = []
    for path in paths:
        below = list(find_runs(path))
        if not below:
            raise SpeedFlagError(f"--replay {path}: no runs there; give a run folder, or one that holds some")
        found += below
    return list(dict.fromkeys(found))


def _measure(table: Table, root: Path, fresh: bool) -> Path:
    """Measure what is missing of a table; its folder."""
    path = root / table.plan.device_name / table.plan.id
    if table.stored(root) and not fresh:
        typer.echo(f"{path} is measured already; --fresh measures it again", err=True)
        return path
    backbone = table.load()
    folder = table.open(root, backbone, fresh)
    total = len(table.plan.visits())
    try:
        with counting() as progress:
            task = progress.add_task(table.plan.shape, total=total, completed=total - len(folder.missing()))
            table.measure(folder, backbone, lambda: progress.advance(task))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {len(folder.timings)} of {total} visits are safe; the same command"
            f"{' without --fresh' if fresh else ''} continues with the missing ones"
        ) from None
    finally:
        folder.close()
    return path
