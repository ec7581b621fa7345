"""`bench train`: the recipes behind the shipped weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from harness.engine.ranks import one_process
from methods.training.cli.distill import mount
from methods.training.cli.grpo import curves, grpo

if TYPE_CHECKING:
    from methods.training.nano import NanoOptions
    from methods.training.nano_long import LongOptions

Options = TypeVar("Options", bound="NanoOptions | LongOptions")

app = typer.Typer(no_args_is_help=True, help="Train the shipped models again, or your own variants of them.")

Output = Annotated[Path, typer.Option(help="Folder that receives the trained model folders.")]
Work = Annotated[
    Path,
    typer.Option(help="Folder for checkpoints, logs and the token pool; a run interrupted there continues."),
]
Seed = Annotated[
    int, typer.Option(help="Seed of data order, initial weights and noise; same seed, same weights.")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
Every = Annotated[
    int, typer.Option(min=0, help="Decode validation items every so many steps (0: only at the end).")
]


@app.command()
def nano(
    output: Output = Path("trained"),
    work: Work = Path("trained/work"),
    preset: Annotated[
        Literal["short", "long"], typer.Option(help="short: nano. long: nano-long, for canvases of 256.")
    ] = "short",
    seed: Seed = 0,
    threads: Threads = 1,
    parent_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the parent (default: the preset's).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the conversion to diffusion (default: the preset's).")
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least validation pass@1 of the parent before it is converted."),
    ] = None,
    validate_every: Every = 0,
) -> None:
    """Train an autoregressive parent from scratch, then convert it to a diffusion model (nano-ar and nano).

    Next-token training of the parent, a gate on its greedy validation pass@1, then gentle
    conversion to masked diffusion (bidirectional attention, shifted targets). About an hour on one core with
    AMX; --preset long (nano-long-ar, nano-long; suites nano-long-gsm, nano-long-code, parallel) takes
    several. Interrupted with Ctrl-C or killed, the same command goes on from the last checkpoint in --work
    and ends at the same weights.

    Examples:

        bench train nano --output trained --work trained/work

        bench train nano --preset long --work trained/work-long --validate-every 500
    """
    from methods.training.nano import GateError, NanoOptions, train_nano
    from methods.training.nano_long import LongOptions, train_nano_long

    one_process("bench train nano")
    make = LongOptions if preset == "long" else NanoOptions
    options = make(output=output, work=work, seed=seed, threads=threads, validate_every=validate_every)
    options = _with_lengths(options, parent_steps, steps, gate)
    try:
        figures = train_nano_long(options) if isinstance(options, LongOptions) else train_nano(options)
    except GateError as error:
        raise typer.BadParameter(str(error), param_hint="--parent-steps or --gate") from None
    _report(figures, output / ("nano-long" if preset == "long" else "nano"))


def _with_lengths(
    options: Options, parent_steps: int | None, steps: int | None, gate: float | None
) -> Options:
    if parent_steps is not None:
        options = replace(
            options, parent=replace(options.parent, loop=replace(options.parent.loop, steps=parent_steps))
        )
    if steps is not None:
        options = replace(
            options,
            conversion=replace(options.conversion, loop=replace(options.conversion.loop, steps=steps)),
        )
    return options if gate is None else replace(options, gate=gate)


mount(app)
app.command()(grpo)
app.command("grpo-curves")(curves)


def _report(figures: dict[str, float], folder: Path) -> None:
    print(f"written to {folder}; greedy pass@1 on validation (forwards per item):")
    for key, value in figures.items():
        if key.count("/") == 1:
            print(f"  {key:<24} {value:.3f} ({figures[key + '/nfe']:.1f})")
