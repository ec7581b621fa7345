"""`bench train`: the recipes behind the shipped weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from methods.training.cli.distill import mount
from methods.training.cli.grpo import curves, grpo
from methods.training.nano import GateError, NanoOptions, train_nano

app = typer.Typer(no_args_is_help=True, help="Train the shipped models again, or your own variants of them.")

Output = Annotated[Path, typer.Option(help="Folder that receives the trained model folders.")]
Work = Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the token pool; a run interrupted there continues.")]
Seed = Annotated[int, typer.Option(help="Seed of data order, initial weights and noise; same seed, same weights.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
Every = Annotated[int, typer.Option(min=0, help="Decode validation items every so many steps (0: only at the end).")]


@app.command()
def nano(
    output: Output = Path("trained"),
    work: Work = Path("trained/work"),
    seed: Seed = 0,
    threads: Threads = 1,
    parent_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the parent (default: the shipped recipe).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the conversion to diffusion (default: the shipped recipe).")] = None,
    gate: Annotated[float | None, typer.Option(min=0, max=1, help="Least validation pass@1 of the parent before it is converted.")] = None,
    validate_every: Every = 0,
) -> None:
    """Train nano-ar from scratch, then convert it to the diffusion model nano.

    Next-token training of the parent, a gate on its greedy validation pass@1, then gentle
    conversion to masked diffusion (bidirectional attention, shifted targets). About an hour on one core.
    Interrupted with Ctrl-C or killed, the same command goes on from the last checkpoint in --work and
    ends at the same weights.

    Example:  bench train nano --output trained --work trained/work
    """

    options = NanoOptions(output=output, work=work, seed=seed, threads=threads, validate_every=validate_every)
    if parent_steps is not None:
        options = replace(options, parent=replace(options.parent, loop=replace(options.parent.loop, steps=parent_steps)))
    if steps is not None:
        options = replace(options, conversion=replace(options.conversion, loop=replace(options.conversion.loop, steps=steps)))
    if gate is not None:
        options = replace(options, gate=gate)
    try:
        _report(train_nano(options), output / "nano")
    except GateError as error:
        raise typer.BadParameter(str(error), param_hint="--parent-steps or --gate") from None


mount(app)
app.command()(grpo)
app.command("grpo-curves")(curves)


def _report(figures: dict[str, float], folder: Path) -> None:
    print(f"written to {folder}; greedy pass@1 on validation (forwards per item):")
    for key, value in figures.items():
        if key.count("/") == 1:
            print(f"  {key:<24} {value:.3f} ({figures[key + '/nfe']:.1f})")
