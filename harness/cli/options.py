"""Flags of the commands that measure and write a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STORING, TIMING = "Storing", "Timing"

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
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads (default: all cores).", rich_help_panel=TIMING),
]
