"""``bench run``: decode suites with methods, measure, grade, store, and print the table."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.cli.cells import Asked, Prompting, plan_cells
from harness.cli.options import STORING, TIMING, OutputPath, Threads, Wandb
from harness.engine.flags import (
    DECODING,
    PROMPTS,
    Adapter,
    BatchSize,
    ChatTemplate,
    Device,
    Dtype,
    Family,
    Isolate,
    Model,
    Multiturn,
    NoMerge,
    PresetOption,
    Seed,
    Settings,
    StopRuleOption,
    stop_rule_of,
)
from harness.engine.isolation.finding import find_method
from harness.engine.opening import Weights, Wish
from harness.engine.preview import on_hub, preview
from harness.errors import Interrupted
from harness.measuring.busy import look, warning
from harness.measuring.protocol import protocol as find_protocol
from harness.model.catalog import location, lookup
from harness.records.schema import read_samples
from harness.runs.cell import Cell, Options
from harness.runs.turns import run_cells
from harness.runs.wandb_log import package
from harness.sandbox import open_jail
from reports.console import render
from suites.suite import load_suite

SUITES = "Suites"
QUICK_METHODS = ("vanilla", "fast_dllm", "d2f", "ar")
QUICK_SUITES = ("nano-gsm", "nano-code")
QUICK_LIMIT = 32
QUICK_TIME = (
    "quickstart: 4 methods, 2 suites, 32 problems each: about 2 minutes on one quiet core, "
    "on a busy one many times as long"
)


def run_command(
    model: Model = "nano",
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Method name, ./file.py, or NAME:key=value,... (repeatable or comma-separated names).",
            rich_help_panel=DECODING,
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite", help="Suite (repeatable or comma-separated); see `bench list`.", rich_help_panel=SUITES
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-L",
            min=1,
            help="First N documents, of each member of a group; default all (quickstart: 32).",
            rich_help_panel=SUITES,
        ),
    ] = None,
    preset: PresetOption = None,
    apply_chat_template: ChatTemplate = None,
    fewshot_as_multiturn: Multiturn = None,
    template: Annotated[
        str,
        typer.Option(
            "--template",
            help="Prompt template of the suite; `bench suite show` lists them.",
            rich_help_panel=PROMPTS,
        ),
    ] = "default",
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            "--num_fewshot",
            "--num-fewshot",
            min=0,
            help="Solved examples in the prompt; default: the suite's.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    fewshot_seed: Annotated[
        int,
        typer.Option(
            "--fewshot_seed", "--fewshot-seed", help="Seed that draws them.", rich_help_panel=PROMPTS
        ),
    ] = 1234,
    batch_size: BatchSize = 1,
    device: Device = None,
    dtype: Dtype = "auto",
    adapter: Adapter = None,
    family: Family = None,
    no_merge: NoMerge = False,
    settings: Settings = None,
    seed: Seed = 0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Answers per document.", rich_help_panel=TIMING)
    ] = 1,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="quick: each document once. standard: warm-up per shape until times vary by less than 2% (3 "
            "to 20 runs), then 32 of the "
            "documents timed three times, methods in A B B A order. publish: as standard, all documents "
            "three times.",
            rich_help_panel=TIMING,
        ),
    ] = "quick",
    stop_rule: StopRuleOption = "harness",
    output_path: OutputPath = Path("runs"),
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Run again even if a finished or interrupted run is stored.",
            rich_help_panel=STORING,
        ),
    ] = False,
    threads: Threads = None,
    wandb: Wandb = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", "--data_dir", help="Folder with benchmark data as JSONL.", rich_help_panel=SUITES
        ),
    ] = None,
    isolate: Isolate = None,
    allow_unsafe_code: Annotated[
        bool,
        typer.Option(
            "--allow-unsafe-code",
            "--allow_unsafe_code",
            help="Run model-written code unjailed where no jail can be had.",
            rich_help_panel=SUITES,
        ),
    ] = False,
) -> None:
    """Run methods on suites and print tokens/s and pass@1 of each.

    Without arguments: **vanilla, fast_dllm, d2f and ar** on both nano suites, 32 problems each.
    An interrupted run continues with exactly the missing samples when the same command is given again;
    a finished one is not repeated unless --fresh.

    Examples:

        bench run --method d2f --suite humaneval

        bench run --method vanilla --method vanilla:tokens_per_step=4 --suite nano-gsm --limit 64

        bench run --method ./mine.py --suite nano-code
    """
    quick = not method and not suite
    if wandb:
        package()
    if threads is not None:
        torch.set_num_threads(threads)
    if data_dir is not None:
        os.environ["BENCH_DATA"] = str(data_dir)
    if allow_unsafe_code:
        os.environ["BENCH_ALLOW_UNSAFE_CODE"] = "1"

    chosen_limit = limit or (QUICK_LIMIT if quick else None)
    options = Options(output_path, batch_size, repeats, chosen_limit, fresh, protocol=find_protocol(protocol))
    methods = _split(method) or list(QUICK_METHODS)
    suites = [name for text in suite or QUICK_SUITES for name in text.split(",")]
    weights = Weights(model, adapter, not no_merge, dtype, device, family)
    _announce(methods, suites, weights, chosen_limit, isolate)
    if busy := warning(look()):
        _tell(busy)
    if quick and model == "nano":
        _tell(QUICK_TIME)
    prompting = Prompting(template, num_fewshot, fewshot_seed, apply_chat_template, fewshot_as_multiturn)
    asked = Asked(
        methods, suites, settings or [], weights, seed, stop_rule_of(stop_rule), prompting, preset, isolate
    )
    with ExitStack() as stack:
        cells: list[Cell] = []
        try:
            for cell in plan_cells(asked, options, _tell):
                stack.callback(cell.folder.close)
                cells.append(cell)
            _execute(cells, allow_unsafe_code, wandb)
        except KeyboardInterrupt:
            raise Interrupted(_safe(cells, fresh)) from None
        _show(cells, output_path)


def _tell(line: str) -> None:
    Console(stderr=True, soft_wrap=True).print(line, highlight=False, markup=False)


def _announce(
    methods: list[str], suites: list[str], weights: Weights, limit: int | None, isolate: bool | None
) -> None:
    """Say what a hub model will fetch, whether it fits and about how long the run takes, before anything
    large is fetched.
    """
    if not on_hub(location(weights.model)):
        return
    tokens = 0
    for name in suites:
        suite = load_suite(name, os.environ.get("BENCH_DATA"))
        count = sum(1 for _ in suite.docs())
        tokens += len(methods) * min(limit or count, count) * (lookup(weights.model).canvas or suite.canvas)
    chosen = [find_method(Wish.parse(text).method, isolate) for text in methods]
    needs = [(method.name, method.decoder.requires) for method in chosen]
    for line in preview(
        weights.model,
        needs,
        tokens=tokens,
        adapter=weights.adapter,
        dtype=weights.dtype,
        device=weights.device,
    ):
        _tell(line)


def _safe(cells: list[Cell], fresh: bool) -> str:
    """What an interrupted run keeps, and how it is continued."""
    done, wanted = sum(cell.folder.stored for cell in cells), sum(len(cell.keys) for cell in cells)
    stored = f"all {done} finished samples of {wanted} are safe" if cells else "nothing was begun"
    return (
        f"interrupted; {stored}; the same command{' without --fresh' if fresh else ''} continues "
        "with the "
        "missing ones"
    )


def _split(methods: list[str] | None) -> list[str]:
    """Comma-separated plain names; a text with settings behind a colon is kept whole."""
    return [name for text in methods or [] for name in ([text] if ":" in text else text.split(","))]


def _execute(cells: list[Cell], allow_unsafe: bool, wandb: bool) -> None:

    log = None
    if wandb:
        from harness.cli.wandb import RunLog  # draws plots: seconds of imports that other runs do not need

        log = RunLog(cells)
    waiting = [cell for cell in cells if cell.pending]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with ExitStack() as stack:
        jail = None
        if any(cell.suite.needs_code for cell in waiting):
            jail = stack.enter_context(open_jail(allow_unsafe=allow_unsafe))
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
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
    weak = f"; this machine's jail: {'; '.join(told['weaknesses'])}" if told["weaknesses"] else ""
    return f"{who}: behind glass ({told['jail']}): {cost}, at most {share or 0:.1%} of the decode time{weak}"


def _show(cells: list[Cell], root: Path) -> None:

    console = Console(width=None if sys.stdout.isatty() else 160)
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
        for line in (unanswered(cell), _glass(cell)):
            if line:
                console.print(line, highlight=False, markup=False)
    console.print(f"runs stored under {root}; `bench report {root}` writes the leaderboard and plots")
