"""The distillers as commands: ``mount(app)`` adds them to ``bench train``. All take the same flags; the rest
is ``--set``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.decoding.settings import parse_pairs
from harness.engine.ranks import first_rank

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "--base",
        "-m",
        help="Masked diffusion model to distil: nano, a checkpoint folder, a hub id.",
    ),
]
Output = Annotated[
    Path | None, typer.Option(help="Folder for the student, a PEFT adapter (default trained/nano-METHOD).")
]
Work = Annotated[
    Path,
    typer.Option(
        help="Folder for checkpoints, logs and generated answers; a run interrupted there continues."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines from bench generate-data, or with texts prompt and response; Parquet; a folder of "
        "such files or of a saved Hugging Face dataset. Default: what the preset says."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="JSON lines with a prompt each: the model answers them first, and learns from that."),
]
Preset = Annotated[
    str, typer.Option(help="nano, dream7b, smoke, or a YAML file with a section for this method.")
]
Seed = Annotated[int, typer.Option(help="Seed of data order, adapter and noise; same seed, same weights.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Optimiser steps over all rounds (default: the preset's).")
]
Rate = Annotated[float | None, typer.Option(min=0, help="Learning rate (default: the preset's).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N; default: cuda if there is one.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting of the preset, KEY=VALUE (repeatable).")
]
Fit = Annotated[
    bool,
    typer.Option(
        "--fit",
        help="Make the batches of a step (tokens x accumulate) as large and few as the estimate lets the "
        "device hold.",
    ),
]
WandB = Annotated[
    bool,
    typer.Option("--wandb", help="Log losses to Weights & Biases too (WANDB_MODE=offline keeps them here)."),
]

TEXTS = {
    "d2f": """Distil a D2F adapter: block-causal attention, taught by the model's own full attention on the
    same noisy row.

    Example:  bench train d2f --model nano --output trained/nano-d2f""",
    "sdtt": """Distil a few-step student by self-distillation through time: k teacher steps become one, the
    step doubles every round.

    Example:  bench train sdtt --set divergence=reverse --set k=2""",
    "dcd": """Distil a few-step student by discrete consistency on nested masks, on the model's own answers.

    Example:  bench train dcd --set clock=gaussian --set shown=anchor""",
    "cfd": """Train a student to be certain where it is right (dParallel), on the model's own answers. Decode
    it above a low threshold.

    Example:  bench train cfd --data answers.jsonl --set beta=2""",
    "d3llm": """Certainty forcing on masks in the order in which the model wrote its own answers (d3LLM).

    Example:  bench train d3llm --data answers.jsonl""",
    "dimo": """Train a one-step student on its own samples (DiMO). A research feature: no text result is
    published.

    Example:  bench train dimo --set start_masks=0.6""",
    "lockstep": """Fine-tune a model for a canvas of reasoning and answer (suites nano-gsm-ra, nano-code-ra;
    method lockstep).

    Every other command takes such rows too with --set blocks=true, from a model that knows the layout:
    --model nano-ra.

    Example:  bench train lockstep --model nano --output trained/nano-ra""",
}


def _command(method: str) -> Any:
    def run(
        model: Model = "nano",
        output: Output = None,
        work: Work = Path("trained/work"),
        data: Data = None,
        prompts: Prompts = None,
        preset: Preset = "nano",
        seed: Seed = 0,
        threads: Threads = 1,
        steps: Steps = None,
        lr: Rate = None,
        device: Device = None,
        settings: Settings = None,
        fit: Fit = False,
        wandb: WandB = False,
    ) -> None:
        # Torch and peft: many seconds, which --help need not wait for.
        from methods.training.options import preset as options_of
        from methods.training.students.trainers import TRAINERS

        trainer = TRAINERS[method]
        given = {
            "model": model,
            "output": output or Path(f"trained/nano-{method}"),
            "work": work,
            "data": data,
            "prompts": prompts,
        }
        given |= {
            "seed": seed,
            "threads": threads,
            "steps": steps,
            "lr": lr,
            "device": device,
            "wandb": wandb,
            "fit": fit or None,
        }
        options = options_of(trainer.options, method, preset, {**given, **parse_pairs(settings or [])})
        folder = trainer.train(options)
        if first_rank():
            typer.echo(
                f"written to {folder}; try it: bench run --adapter {folder} --model {model} --method ..."
            )

    run.__doc__ = TEXTS[method]
    return run


def duo(
    output: Annotated[Path, typer.Option(help="Folder that receives the folders base and student.")] = Path(
        "trained/duo"
    ),
    work: Work = Path("trained/work"),
    preset: Preset = "nano",
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
    lr: Rate = None,
    settings: Settings = None,
) -> None:
    """Train a small uniform-state model on the word task and distil it (DUO); prints quality by number of
    steps.

    Example:  bench train duo --output trained/duo
    """
    from methods.training.duo.recipe import DuoOptions, train_duo
    from methods.training.options import preset as options_of

    given = {"output": output, "work": work, "seed": seed, "threads": threads, "steps": steps, "lr": lr}
    folder = train_duo(options_of(DuoOptions, "duo", preset, {**given, **parse_pairs(settings or [])}))
    if not first_rank():
        return
    typer.echo(f"written to {folder}")
    for name, rows in json.loads((folder / "card.json").read_text())["quality"].items():
        for row in rows:
            told = f"words {row['words']:.3f}, pairs {row['pairs']:.3f}, entropy {row['entropy']:.2f}"
            typer.echo(f"{name:<8} N={row['steps']:<3} {row['tail']:<12} {told}")


def mount(app: typer.Typer) -> None:
    """Add all distillers."""
    for method in TEXTS:
        app.command(method)(_command(method))
    app.command("duo")(duo)
