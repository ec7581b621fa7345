"""What ``bench run`` does once its flags are read: announce, execute with progress bars, print the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from harness.cli.bars import counting
from harness.cli.cells import Asked, plan_cells
from harness.engine.isolation.finding import find_method
from harness.engine.opening import Wish
from harness.engine.preview import on_hub, preview
from harness.errors import Interrupted
from harness.measuring.busy import look, warning
from harness.model.catalog import location, lookup
from harness.records.printable import columns
from harness.records.schema import read_samples
from harness.runs.cell import Cell, Options
from harness.runs.served import unmeasured
from harness.runs.turns import run_cells
from harness.sandbox import Jail, open_jail
from reports.console import render
from suites.suite import load_suite


def set_threads(threads: int | None) -> None:
    """Torch's threads; None leaves its own default."""
    if threads is not None:
        torch.set_num_threads(threads)


def announce(asked: Asked, limit: int | None, turns: bool, further: str | None) -> None:
    """Say what a hub model will fetch, whether the machine is busy (methods take ``turns`` already?), and one
    ``further`` line.
    """
    for line in _download(asked, limit):
        _tell(line)
    for line in (warning(look(), torch.get_num_threads(), turns), further):
        if line:
            _tell(line)


def run(asked: Asked, options: Options, allow_unsafe: bool, wandb: bool) -> None:
    """Plan and execute every cell and print their table. Interrupted, with what is kept, at Ctrl-C."""
    with ExitStack() as stack:
        cells: list[Cell] = []
        try:
            for cell in plan_cells(asked, options, _tell):
                stack.callback(cell.folder.close)
                if not cell.weights_seen:
                    stack.callback(cell.generator.loaded.held.release)
                cells.append(cell)
            _execute(cells, allow_unsafe, wandb)
        except KeyboardInterrupt:
            raise Interrupted(_safe(cells, options.fresh)) from None
        _show(cells, options.output_path)


def _tell(line: str) -> None:
    Console(stderr=True, soft_wrap=True).print(line, highlight=False, markup=False)


def _download(asked: Asked, limit: int | None) -> Iterator[str]:
    """What a hub model will fetch, whether it fits and about how long the run takes, before anything large is
    fetched; nothing for a model that is there.
    """
    weights = asked.weights
    if asked.engine is not None:
        return
    if not on_hub(location(weights.model)):
        return
    tokens = 0
    for name in asked.suites:
        suite = load_suite(name, os.environ.get("BENCH_DATA"))
        count = sum(1 for _ in suite.docs())
        canvas = lookup(weights.model).canvas or suite.canvas
        tokens += len(asked.methods) * min(limit or count, count) * canvas
    chosen = [find_method(Wish.parse(text).method, asked.isolate) for text in asked.methods]
    needs = [(method.name, method.decoder.requires) for method in chosen]
    yield from preview(
        weights.model,
        needs,
        tokens=tokens,
        adapter=weights.adapter,
        dtype=weights.dtype,
        device=weights.device,
    )


def _safe(cells: list[Cell], fresh: bool) -> str:
    """What an interrupted run keeps, and how it is continued."""
    done, wanted = sum(cell.folder.stored for cell in cells), sum(len(cell.keys) for cell in cells)
    stored = f"all {done} finished samples of {wanted} are safe" if cells else "nothing was begun"
    return (
        f"interrupted; {stored}; the same command{' without --fresh' if fresh else ''} continues "
        "with the "
        "missing ones"
    )


def _execute(cells: list[Cell], allow_unsafe: bool, wandb: bool) -> None:
    log = None
    if wandb:
        from harness.cli.wandb import RunLog  # draws plots: seconds of imports that other runs do not need

        log = RunLog(cells)
    waiting = [cell for cell in cells if cell.pending]
    with ExitStack() as stack:
        jail = None
        if any(cell.suite.needs_code for cell in waiting):
            jail = stack.enter_context(open_jail(allow_unsafe=allow_unsafe))
            _note_jail(waiting, jail)
        progress = stack.enter_context(counting())
        tasks = {}
        for cell in cells:
            done = len(cell.keys) - len(cell.pending)
            tasks[id(cell)] = progress.add_task(cell.label, total=len(cell.keys), completed=done)

        def advance(cell: Cell, count: int) -> None:
            progress.advance(tasks[id(cell)], count)
            if log is not None:
                log.samples(cell, count)

        run_cells(cells, jail, advance, _tell)
    if log is not None:
        log.finish(cells)


def _note_jail(cells: list[Cell], jail: Jail) -> None:
    """Record, in every run whose answers are programs, what grades them; say what it cannot do here."""
    for cell in cells:
        if cell.suite.needs_code:
            cell.folder.run.jail = {"backend": jail.backend, "weaknesses": jail.weaknesses}
    if jail.weaknesses:
        _tell(f"programs are graded in a weaker jail ({jail.backend}): {'; '.join(jail.weaknesses)}")


def unanswered(cell: Cell) -> str | None:
    """How many prompts of a run ended in an error, with the first one's; None: not one."""
    summary = cell.folder.run.summary
    if summary is None or not summary.errors:
        return None
    first = next((one.error for one in read_samples(cell.folder.path) if one.error), "no reason recorded")
    who = f"{cell.method.name} on {cell.suite.name}"
    return f"{who}: {summary.errors} of {summary.samples} prompts got no answer (unsolved): {first}"


def _glass(cell: Cell) -> str | None:
    """What a run says of the process that its decoder ran in; None for the project's own in the harness'
    process.
    """
    run = cell.folder.run
    if run.plan.isolated is None:
        return None
    who = f"{cell.method.name} on {cell.suite.name}"
    if not run.plan.isolated or run.isolation is None:
        return f"{who}: not isolated: the decoder ran in the harness' own process"
    told, share = run.isolation, run.isolation.get("share")
    cost = f"{1e3 * told['candidates_s']:.2f} ms per request, {1e3 * told['logits_s']:.2f} ms with logits"
    cost += f", {1e3 * told.get('answer_s', 0):.1f} ms per answer besides"
    weak = f"; this machine's jail: {'; '.join(told['weaknesses'])}" if told["weaknesses"] else ""
    return f"{who}: behind glass ({told['jail']}): {cost}, at most {share or 0:.1%} of the decode time{weak}"


def _show(cells: list[Cell], root: Path) -> None:
    console = Console(width=columns(160))
    console.print(render([cell.folder.path for cell in cells]))
    failed = [
        cell for cell in cells if cell.folder.run.audit is not None and not cell.folder.run.audit.passed
    ]
    for cell in failed:
        checks = cell.folder.run.audit.checks if cell.folder.run.audit else []
        names = ", ".join(check.name for check in checks if not check.passed)
        console.print(
            f"[red]{cell.method.name} on {cell.suite.name} failed the audit ({names}) and is kept out of "
            "tables[/red]"
        )
    for cell in cells:
        for line in (unanswered(cell), _glass(cell), unmeasured(cell)):
            if line:
                console.print(line, highlight=False, markup=False)
    console.print(f"runs stored under {root}; `bench report {root}` writes the leaderboard and plots")
