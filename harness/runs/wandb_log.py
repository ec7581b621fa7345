"""Weights & Biases, where a command has ``--wandb``: the only module that imports it.

run = start("bench-run", config={"method": "d2f"})    # WandbError without the package or an account
run.log({"loss": 1.0})
run.finish()

``WANDB_MODE=offline`` needs neither network nor account; ``wandb sync FOLDER`` uploads such a run later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harness.errors import UserError

PROJECT = "dllm-bench"


class WandbError(UserError, RuntimeError):
    """--wandb cannot be followed; the text says what to install or set."""


def package() -> Any:
    """The wandb module; WandbError with the command that installs it."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise WandbError(
            "--wandb needs the package wandb: pip install 'dllm-bench[wandb]', or leave --wandb out"
        ) from None
    return wandb


def start(name: str, config: Mapping[str, Any], job: str = "run") -> Any:
    """A W&B run in the project ``WANDB_PROJECT`` (default: dllm-bench); the caller logs to it and finishes
    it.

    ``job`` sorts runs by kind. Nothing printed is captured, because progress bars are no log.
    """
    wandb = package()
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            job_type=job,
            config=dict(config),
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:
        reason = str(error).strip().split("\n")[0]
        raise WandbError(
            f"--wandb: {reason} Set WANDB_MODE=offline to log without network and account."
        ) from None
