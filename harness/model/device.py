"""Device and precision that a flag names."""

from __future__ import annotations

import torch

from harness.model.quantize import SCHEMES
from harness.model.spec import CheckpointError

MEASURED = ("cpu", "cuda")
"""Kinds of device that this harness times."""


def pick_device(name: str | None) -> torch.device:
    """A usable torch device; CheckpointError for CUDA where there is none, which would give the CPU's figures
    under a GPU's name, and for a device that holds no numbers or that nothing here times (meta, mps).
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        raise CheckpointError(f"--device {name!r} is no torch device; use cpu, cuda or cuda:N") from None
    if device.type not in MEASURED:
        raise CheckpointError(
            f"--device {name}: nothing is measured on {device.type!r}; use cpu, cuda or cuda:N"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            f"--device {name}: torch {torch.__version__} finds no CUDA device here; use --device cpu, or "
            "leave it out"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(
            f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices, from cuda:0"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Of the activations. auto: bfloat16 on an accelerator, float32 on a CPU; the same beside weights of
    fewer bits.
    """
    if name == "auto" or name in SCHEMES:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise CheckpointError(f"--dtype {name!r} is unknown; use auto, {', '.join((*dtypes, *SCHEMES))}")
    return dtypes[name]
