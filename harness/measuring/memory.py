"""Memory of a decode call: device memory on CUDA, resident memory of the process on Linux."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak(device: torch.device) -> bool:
    """Start a new peak; false where the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def level(device: torch.device) -> int | None:
    """Bytes held now; None where unknown. On a CPU all models of the process count."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")


def peak(device: torch.device) -> int | None:
    """Bytes at the peak since ``reset_peak``; None where unknown. On a CPU all models of the process
    count.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def free(device: torch.device) -> int:
    """Bytes that new weights may take: of the device, on a CPU of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _resident(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
