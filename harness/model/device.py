"""Device and precision that a flag names."""

from __future__ import annotations

import logging

import torch

from harness.model.spec import CheckpointError

log = logging.getLogger(__name__)


def pick_device(name: str | None) -> torch.device:
    """A usable torch device; asking for CUDA without one falls back to the CPU with a warning."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        raise CheckpointError(f"--device {name!r} is no torch device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        log.warning("no CUDA device here: running on the CPU instead of %s", name)
        return torch.device("cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on an accelerator, float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise CheckpointError(f"--dtype {name!r} is unknown; use auto, {', '.join(dtypes)}")
    return dtypes[name]
