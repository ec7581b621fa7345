"""The distillers as commands; mounted by ``for command in COMMANDS: app.command()(command)`` on a typer app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Base = Annotated[Path, typer.Option(help="Folder of the masked diffusion model to distil.")]
Output = Annotated[Path, typer.Option(help="Folder that receives the student: a PEFT adapter for bench run --adapter.")]
Work = Annotated[Path, typer.Option(help="Folder for checkpoints and logs; a run interrupted there continues.")]
Data = Annotated[
    Path | None, typer.Option(help="The model's own answers: JSON lines with prompt_ids and output_ids (default: the corpus).")
]
Preset = Annotated[str, typer.Option(help="nano, dream7b, smoke, or a YAML file with a section for this method.")]
Seed = Annotated[int, typer.Option(help="Seed of data order, adapter and noise; same seed, same weights.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps over all rounds (default: the preset's).")]
Rate = Annotated[float | None, typer.Option(min=0, help="Learning rate (default: the preset's).")]


def sdtt(
    base: Base = Path("trained/nano"),
    output: Output = Path("trained/nano-sdtt"),
    work: Work = Path("trained/work"),
    data: Data = None,
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
    k: Annotated[int | None, typer.Option(min=1, help="Teacher steps per target.")] = None,
    divergence: Annotated[str | None, typer.Option(help="reverse, forward, mse or tvd.")] = None,
) -> None:
    """Distil a few-step student by self-distillation through time.

    Example:  bench train sdtt --base trained/nano --output trained/nano-sdtt
    """
    from methods.training.sdtt import SDTTOptions, train_sdtt

    places = {"base": base, "output": output, "work": work, "data": data, "seed": seed, "threads": threads, "lr": lr}
    _train(SDTTOptions, train_sdtt, "sdtt", preset, steps, k=k, divergence=divergence, **places)


def dcd(
    base: Base = Path("trained/nano"),
    output: Output = Path("trained/nano-dcd"),
    work: Work = Path("trained/work"),
    data: Data = None,
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
    clock: Annotated[str | None, typer.Option(help="linear, or gaussian: re-timed by the vocabulary's integral cache.")] = None,
    shown: Annotated[str | None, typer.Option(help="Loss where the teacher sees the token: ce, anchor or none.")] = None,
    direction: Annotated[str | None, typer.Option(help="reverse or forward KL (forward has the teacher as its optimum).")] = None,
) -> None:
    """Distil a few-step student by discrete consistency on nested masks.

    Example:  bench train dcd --base trained/nano --output trained/nano-dcd
    """
    from methods.training.dcd import DCDOptions, train_dcd

    places = {"base": base, "output": output, "work": work, "data": data, "seed": seed, "threads": threads, "lr": lr}
    _train(DCDOptions, train_dcd, "dcd", preset, steps, clock=clock, shown=shown, direction=direction, **places)


def cfd(
    base: Base = Path("trained/nano"),
    output: Output = Path("trained/nano-cfd"),
    work: Work = Path("trained/work"),
    data: Data = None,
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the entropy of positions that are right.")] = None,
) -> None:
    """Train a student to be certain where it is right (dParallel).

    Example:  bench train cfd --base trained/nano --output trained/nano-cfd
    """
    from methods.training.cfd import CFDOptions, train_cfd

    places = {"base": base, "output": output, "work": work, "data": data, "seed": seed, "threads": threads, "lr": lr}
    _train(CFDOptions, train_cfd, "cfd", preset, steps, beta=beta, **places)


def dimo(
    base: Base = Path("trained/nano"),
    output: Output = Path("trained/nano-dimo"),
    work: Work = Path("trained/work"),
    data: Data = None,
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
    beta: Annotated[float | None, typer.Option(help="Share of reverse KL in the gradient; may be negative.")] = None,
) -> None:
    """Train a one-step student on its own samples (DiMO).

    Example:  bench train dimo --base trained/nano --output trained/nano-dimo
    """
    from methods.training.dimo import DiMOOptions, train_dimo

    places = {"base": base, "output": output, "work": work, "data": data, "seed": seed, "threads": threads, "lr": lr}
    _train(DiMOOptions, train_dimo, "dimo", preset, steps, beta=beta, **places)


def duo(
    output: Annotated[Path, typer.Option(help="Folder that receives the folders base and student.")] = Path("trained/duo"),
    work: Work = Path("trained/work"),
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
) -> None:
    """Train a small uniform-state model on the word task and distil it (DUO); prints quality by number of steps.

    Example:  bench train duo --output trained/duo
    """
    import json

    from methods.training.duo import DuoOptions, train_duo

    _train(DuoOptions, train_duo, "duo", preset, steps, output=output, work=work, seed=seed, threads=threads, lr=lr)
    for name, rows in json.loads((output / "card.json").read_text())["quality"].items():
        for row in rows:
            print(
                f"{name:<8} N={row['steps']:<3} {row['tail']:<12} words {row['words']:.3f}, pairs {row['pairs']:.3f}, "
                f"entropy {row['entropy']:.2f}"
            )


def _train(kind: Any, train: Callable[[Any], Path], method: str, preset: str, steps: int | None, **given: Any) -> None:
    from methods.training import student

    options = student.with_steps(student.preset(kind, method, preset, **given), steps)
    print(f"written to {train(options)}")


COMMANDS: tuple[Callable[..., None], ...] = (sdtt, dcd, cfd, dimo, duo)
