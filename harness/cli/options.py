"""Flags of the commands that write a run store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STORING = "Storing"

Wandb = Annotated[
    bool,
    typer.Option(
        "--wandb",
        help="Log to Weights & Biases too (extra `wandb`); WANDB_MODE=offline needs no network and no "
        "account.",
        rich_help_panel=STORING,
    ),
]
OutputPath = Annotated[
    Path, typer.Option("--output_path", "--output-path", "-o", help="Run store.", rich_help_panel=STORING)
]
