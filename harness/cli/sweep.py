"""``bench sweep``: methods x settings x suites x batch sizes from a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.cli.options import OutputPath
from harness.errors import Interrupted
from harness.records.printable import columns, in_console, printable
from harness.records.schema import Summary, find_runs, read_run
from harness.runs.sweep import Job, Outcome, State, cells, read_sweep
from harness.runs.workers import run_local, run_ray


def sweep_command(
    file: Annotated[
        Path, typer.Argument(help="Sweep file; examples in suites/sweeps/.", metavar="FILE.yaml")
    ],
    output_path: OutputPath = Path("runs"),
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Cells that run side by side.")] = 1,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help="GPU of each worker, such as 0,1,2,3 (sets CUDA_VISIBLE_DEVICES)."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run the cells through Ray (extra `train`) instead of plain processes."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run cells that crashed, were refused or timed out again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and their state, run nothing.")
    ] = False,
) -> None:
    """Run every combination of a sweep file, one process per cell.

    The same command continues a sweep that was stopped or killed: finished cells are skipped
    (OUTPUT/sweep.jsonl), the interrupted one continues with its missing samples. A cell that crashes is
    recorded with its last line (OUTPUT/sweep-logs has the rest) and the sweep goes on. Answers do not depend
    on --workers or --ray; **timings do, if workers share one processor or GPU**. Exit status 1 if a cell did
    not complete.

    A sweep file:

        methods:
          - method: vanilla
          - method: fast_dllm
            settings: {cache: [prefix, dual], threshold: [0.8, 0.9]}
        suites: [nano-gsm, nano-code]
        batch_sizes: [1, 4]
        limit: 64

    Examples:

        bench sweep suites/sweeps/nano.yaml --dry-run

        bench sweep suites/sweeps/nano.yaml -o runs/nano --workers 2
    """

    sweep = read_sweep(file)
    wanted = cells(sweep, output_path)
    state = State(output_path)
    pending = state.pending(wanted, retry_failed)
    if not dry_run and pending:
        try:
            with _Display(wanted, len(wanted) - len(pending)) as watch:
                if ray:
                    run_ray(
                        pending,
                        state,
                        workers,
                        bool(gpus) or (sweep.device or "").startswith("cuda"),
                        sweep.timeout_s,
                        watch,
                    )
                else:
                    run_local(
                        pending, state, workers, gpus.split(",") if gpus else [], sweep.timeout_s, watch
                    )
        except KeyboardInterrupt:
            left = len(state.pending(wanted, retry_failed))
            text = (
                f"interrupted; {len(wanted) - left} of {len(wanted)} cells are done and every finished "
                "sample of the others is safe"
            )
            raise Interrupted(f"{text}; the same command continues") from None
    _show(wanted, state, output_path)
    state.close()
    if not dry_run and any(state.outcomes[cell.key].status != "complete" for cell in wanted):
        raise typer.Exit(1)


class _Display:
    """One bar over all cells, with the ones that run now."""

    def __init__(self, wanted: Sequence[Job], done: int) -> None:

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=len(wanted), completed=done)
        self._running: dict[str, str] = {}

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, cell: Job, outcome: Outcome | None) -> None:
        if outcome is None:
            self._running[cell.key] = cell.label
        else:
            self._running.pop(cell.key, None)
            self._progress.advance(self._task)
            if outcome.status != "complete":
                line = f"{cell.label}: {outcome.status}: {outcome.error}"
                self._progress.console.print(printable(line), markup=False)
        shown = "; ".join(list(self._running.values())[:3])
        self._progress.update(self._task, description=in_console(shown))


def _show(wanted: Sequence[Job], state: State, output: Path) -> None:

    summaries = _summaries(output)
    table = Table("cell", "status", "seconds", "pass@1", "tokens/s", "tokens/forward", "what happened")
    for cell in wanted:
        outcome, summary = state.outcomes.get(cell.key), summaries.get(cell.command)
        figures = (
            ["-"] * 3
            if summary is None
            else [_number(value) for value in (summary.pass_at_1, summary.tps, summary.tpf)]
        )
        if outcome is None:
            table.add_row(in_console(cell.label), "to do", "-", *figures, "")
        else:
            error = in_console(outcome.error)
            table.add_row(in_console(cell.label), outcome.status, f"{outcome.seconds:.1f}", *figures, error)
    console = Console(width=columns(180))
    console.print(table)
    counts = [(state.outcomes[cell.key].status if cell.key in state.outcomes else "to do") for cell in wanted]
    console.print(
        ", ".join(f"{counts.count(name)} {name}" for name in dict.fromkeys(counts))
        + f" of {len(wanted)} cells; `bench report {output}`"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _summaries(output: Path) -> dict[str, Summary]:
    """Summary by the command that made the run."""

    runs = [read_run(folder) for folder in find_runs(output)]
    return {run.command: run.summary for run in runs if run.summary is not None}
