"""``bench run``: decode suites with methods, measure, grade, store, and print the table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import STORING, TIMING, OutputPath, Threads, Wandb
from harness.engine.flags import (
    DECODING,
    PROMPTS,
    Adapter,
    Attention,
    BatchSize,
    ChatTemplate,
    Compile,
    Continuous,
    Device,
    DeviceMap,
    Dtype,
    Engine,
    Family,
    Isolate,
    Model,
    Multiturn,
    NoMerge,
    PresetOption,
    Seed,
    Settings,
    StopRuleOption,
    check_engine,
    stop_rule_of,
)
from harness.measuring.protocol import protocol as find_protocol
from harness.runs.wandb_log import package

SUITES = "Suites"
QUICK_METHODS = ("vanilla", "fast_dllm", "d2f", "ar")
QUICK_SUITES = ("nano-gsm", "nano-code")
QUICK_LIMIT = 32
QUICK_TIME = (
    "quickstart: 4 methods, 2 suites, 32 problems each: 1 to 2 minutes on one quiet core, "
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
    engine: Engine = None,
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
    continuous: Continuous = False,
    device: Device = None,
    device_map: DeviceMap = None,
    dtype: Dtype = "auto",
    attention: Attention = "auto",
    compiled: Compile = False,
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
    # Torch comes with these, and --help need not wait for it.
    from harness.cli.cells import Asked, Prompting
    from harness.cli.running import announce, run, set_threads
    from harness.engine.opening import Weights
    from harness.runs.cell import Options

    quick = not method and not suite and engine is None
    check_engine(engine, method, preset, isolate, no_merge)
    if wandb:
        package()
    set_threads(threads)
    if data_dir is not None:
        os.environ["BENCH_DATA"] = str(data_dir)
    if allow_unsafe_code:
        os.environ["BENCH_ALLOW_UNSAFE_CODE"] = "1"

    chosen_limit = limit or (QUICK_LIMIT if quick else None)
    options = Options(
        output_path, batch_size, repeats, chosen_limit, fresh, find_protocol(protocol), continuous
    )
    methods = _split(method) or ([] if engine else list(QUICK_METHODS))
    suites = [name for text in suite or QUICK_SUITES for name in text.split(",")]
    prompting = Prompting(template, num_fewshot, fewshot_seed, apply_chat_template, fewshot_as_multiturn)
    weights = Weights(model, adapter, not no_merge, dtype, device, family, attention, compiled, device_map)
    asked = Asked(
        methods,
        suites,
        settings or [],
        weights,
        seed,
        stop_rule_of(stop_rule),
        prompting,
        preset,
        isolate,
        engine,
    )
    announce(asked, chosen_limit, protocol == "standard", QUICK_TIME if quick and model == "nano" else None)
    run(asked, options, allow_unsafe_code, wandb)


def _split(methods: list[str] | None) -> list[str]:
    """Comma-separated plain names; a text with settings behind a colon is kept whole."""
    return [name for text in methods or [] for name in ([text] if ":" in text else text.split(","))]
