"""`bench train grpo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.decoding.settings import parse_pairs
from harness.engine.ranks import one_process
from harness.errors import UserError

ROLLOUTS, LOSS, REWARDS, MACHINE = "Rollouts", "Loss and optimiser", "Rewards", "Machine"


def grpo(
    suite: Annotated[
        str,
        typer.Option(
            help="nano-gsm, nano-code (training split of their generators), or a file of JSON lines: "
            "see below."
        ),
    ] = "nano-code",
    preset: Annotated[
        str, typer.Option(help="nano, or dream7b-coupled (DiffuCoder's published recipe).")
    ] = "nano",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Shipped name, folder or hub id (default: the preset's)."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder of the trained checkpoint (or adapter, with --rank).")
    ] = Path("trained/grpo"),
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoint, log.jsonl, rollouts.jsonl, rewards.png (default: OUTPUT-work)."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches of rollouts.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of problems, answers and masks; same seed, same weights.")
    ] = 0,
    evaluate: Annotated[
        int | None,
        typer.Option(min=0, help="Held-out documents answered before and after training (0: none)."),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Suite of these documents (default: the nano suite trained on).")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Memory estimate and one step with two problems; nothing is kept."),
    ] = False,
    method: Annotated[
        str | None, typer.Option(help="Decoder that answers: any of `bench list`.", rich_help_panel=ROLLOUTS)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Decoder setting KEY=VALUE (repeatable).", rich_help_panel=ROLLOUTS),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of the answers.", rich_help_panel=ROLLOUTS)
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Problems per step.", rich_help_panel=ROLLOUTS)
    ] = None,
    group: Annotated[
        int | None, typer.Option(min=2, help="Answers per problem.", rich_help_panel=ROLLOUTS)
    ] = None,
    canvas: Annotated[
        int | None, typer.Option(min=1, help="New tokens per answer.", rich_help_panel=ROLLOUTS)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Answers decoded together.", rich_help_panel=ROLLOUTS)
    ] = None,
    resample: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Rounds of further problems in place of groups whose rewards are all alike, at most (DAPO).",
            rich_help_panel=ROLLOUTS,
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(help="Log-probabilities: coupled, one_step (d1), espo or trace.", rich_help_panel=LOSS),
    ] = None,
    inner: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps per batch.", rich_help_panel=LOSS)
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0, help="Clip of the ratio on both sides.", rich_help_panel=LOSS)
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of the KL penalty; 0 needs no reference.", rich_help_panel=LOSS),
    ] = None,
    loss_agg: Annotated[
        str | None,
        typer.Option(
            help="How answers of different lengths count: token-mean (DAPO), seq-mean-token-mean (GRPO) or "
            "seq-mean-token-sum-norm (Dr. GRPO).",
            rich_help_panel=LOSS,
        ),
    ] = None,
    sync_every: Annotated[
        int | None,
        typer.Option(min=0, help="Steps after which the reference is renewed.", rich_help_panel=LOSS),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of AdamW.", rich_help_panel=LOSS)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="LoRA rank; 0 trains all weights.", rich_help_panel=LOSS)
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Masked canvases per forward: memory, not result.", rich_help_panel=LOSS),
    ] = None,
    reward: Annotated[
        Path | None,
        typer.Option(
            help="Python file with reward(task, text) -> {component: value}.", rich_help_panel=REWARDS
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="Program in an answer: completion of the prompt, or fenced block.", rich_help_panel=REWARDS
        ),
    ] = None,
    shuffle_rewards: Annotated[
        bool,
        typer.Option(
            "--shuffle-rewards",
            help="Control: rewards go to the wrong answers of their group.",
            rich_help_panel=REWARDS,
        ),
    ] = False,
    allow_unsafe_code: Annotated[
        bool,
        typer.Option(
            "--allow-unsafe-code",
            help="Run programs unjailed where no jail can be had.",
            rich_help_panel=REWARDS,
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray workers: processes, or GPUs.", rich_help_panel=MACHINE)
    ] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="One worker in this process.", rich_help_panel=MACHINE)
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=MACHINE)] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each worker.", rich_help_panel=MACHINE)
    ] = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(help="console, file, tensorboard or wandb (repeatable).", rich_help_panel=MACHINE),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Benchmark data, to compare a training file with.", rich_help_panel=MACHINE),
    ] = None,
) -> None:
    """Reinforcement learning (GRPO) from verified answers: tests that pass, final answers that match.

    Each step draws problems, lets the decoder answer each several times, grades the answers (programs run in
    the jail), and moves the model towards the better answers of each group. Train with the decoder you will
    use: with a fast one the model learns to be right when decoded fast.

    A training file holds JSON lines {"prompt": ..., "answer": ...} or {"prompt": ..., "tests": [...],
    "entry_point": ...}. A file that shares a problem with an evaluation suite is refused.

    Interrupted, the same command continues from the last checkpoint and ends at the same weights. Needs the
    extra `train` (verl).

    Examples:

        bench train grpo --suite nano-gsm --no-ray --output trained/grpo-gsm --evaluate 256

        bench train grpo --suite nano-code --method fast_dllm --set threshold=0.5 --workers 2

        bench train grpo --preset dream7b-coupled --suite acecode.jsonl --workers 8
    """
    from methods.training.grpo.options import load_options
    from methods.training.grpo.run import dry_run as try_out
    from methods.training.grpo.run import train

    one_process("bench train grpo", "it starts workers itself: --workers N")
    given: dict[str, Any] = {
        "model": model, "output": output, "work": work or output.with_name(output.name + "-work"),
        "steps": steps, "seed": seed, "evaluate": evaluate, "held_out": held_out, "method": method,
        "settings": _settings(settings, temperature), "prompts": prompts, "group": group, "canvas": canvas,
        "batch": batch, "estimator": estimator, "inner": inner, "epsilon": epsilon, "beta": beta,
        "sync_every": sync_every, "resample": resample, "loss_agg": loss_agg,
        "lr": lr, "rank": rank, "rows": rows, "save_every": save_every,
        "form": form, "reward": reward, "shuffle_rewards": shuffle_rewards, "allow_unsafe": allow_unsafe_code,
        "workers": workers, "ray": not no_ray, "device": device, "threads": threads,
        "loggers": tuple(logger) if logger else None, "data_dir": str(data_dir) if data_dir else None,
    }  # fmt: skip
    options = load_options(preset, suite, **given)
    if dry_run:
        try_out(options)
        return
    if stopped := train(options):
        raise UserError(stopped)
    print(f"written to {options.output}; curves in {options.work / 'rewards.png'}")


def _settings(pairs: list[str] | None, temperature: float | None) -> dict[str, Any] | None:

    found: dict[str, Any] = dict(parse_pairs(pairs or []))
    if temperature is not None:
        found["temperature"] = temperature
    return found or None


def curves(
    folders: Annotated[
        list[Path], typer.Argument(help="Work folders of finished runs of `bench train grpo`.")
    ],
    picture: Annotated[Path, typer.Option(help="Image to write.")] = Path("rewards.png"),
    page: Annotated[
        Path | None,
        typer.Option(help="Markdown file whose table of runs, between its two markers, is renewed."),
    ] = None,
) -> None:
    """Draw reward, solved share, entropy and KL of several GRPO runs (seeds, suites, controls) into one
    picture, and print their table.

    Example:  bench train grpo-curves trained/*-work --picture rewards.png
    """
    from methods.training.grpo.picture import draw
    from methods.training.grpo.summary import table, updated

    one_process("bench train grpo-curves")
    print(table(folders))
    if page is not None:
        page.write_text(updated(page, folders))
    draw(folders, picture)
    print(f"written to {picture}")
