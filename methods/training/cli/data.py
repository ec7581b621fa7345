"""``bench generate-data``: the teacher's own answers for students to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.decoding.settings import parse_pairs
from harness.engine.flags import Adapter, Device, Dtype, Model, Seed, Settings


def generate_data_command(
    output: Annotated[
        Path,
        typer.Option(
            "--output", help="JSON lines to write; NAME.card.json beside it holds settings and hashes."
        ),
    ],
    model: Model = "nano",
    adapter: Adapter = None,
    method: Annotated[
        str, typer.Option("--method", help="Decoder of the teacher, by name or file.")
    ] = "vanilla",
    settings: Settings = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="JSON lines with prompt (text) or prompt_ids, optionally the right response; default: "
            "generated.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="Number of generated training problems (without --prompts).")
    ] = 4000,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "--batch_size", "-b", min=1, help="Rows decoded together.")
    ] = 32,
    device: Device = None,
    dtype: Dtype = "auto",
    seed: Seed = 0,
) -> None:
    """Let a model answer training prompts and store the answers with the order in which each was written.

    By default problems of the embedded suites' training split, vanilla decoding, one token per step. A line
    holds **prompt_ids**, **output_ids** up to the end of text, **step_map** (per id, the forward that wrote
    it) and **correct** (null where unknown). Prompts of a frozen test set are refused. The same command goes
    on where an interrupted one stopped; a larger --count adds lines.

    Examples:

        bench generate-data --output answers.jsonl --count 2000 --set block_length=8 --dtype bfloat16

        bench train cfd --data answers.jsonl
    """
    from methods.training.data.answers import AnswerOptions, card_path, generate_answers

    options = AnswerOptions(
        output=output,
        model=model,
        adapter=adapter,
        method=method,
        settings=parse_pairs(settings or []),
        prompts=prompts,
        count=count,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    path = generate_answers(options)
    typer.echo(
        f"answers in {path}, card in {card_path(path)}; learn from them: bench train cfd --data {path}"
    )
