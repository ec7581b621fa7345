"""Figures of every step to verl's trackers: console, file, tensorboard, wandb."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from methods.training.grpo.options import GRPOOptions, OptionsError

TRACKERS = ("console", "file", "tensorboard", "wandb")


@contextmanager
def tracking(options: GRPOOptions) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """``track(figures, step)``. Files lie in the work folder; wandb without a key writes there too, to be
    uploaded with wandb sync.
    """
    if unknown := [name for name in options.loggers if name not in TRACKERS]:
        raise OptionsError(f"--logger {unknown[0]} is unknown; use {', '.join(TRACKERS)}")
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    # verl opens its file anew at every start, so a resumed run gets another one.
    os.environ["VERL_FILE_LOGGER_PATH"] = str(
        work / f"tracking-{len(list(work.glob('tracking-*.jsonl')))}.jsonl"
    )
    os.environ.setdefault("TENSORBOARD_DIR", str(work / "tensorboard"))
    os.environ.setdefault("WANDB_DIR", str(work))
    if "WANDB_API_KEY" not in os.environ:
        os.environ.setdefault("WANDB_MODE", "offline")
    from verl.utils.tracking import Tracking  # pyright: ignore[reportMissingImports]

    found = Tracking("dllm-bench-grpo", work.name, list(options.loggers), {"trainer": {}, **options.plain()})
    try:
        yield lambda row, step: found.log(
            {key: value for key, value in row.items() if isinstance(value, int | float)}, step
        )
    finally:
        found.finish()
