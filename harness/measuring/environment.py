"""The machine and software behind a run. What cannot be read is null."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "lm_eval", "peft", "tokenizers", "numpy", "dllm-bench")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cpu_model() -> str:
    """The processor's own name, else the machine type."""
    try:
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Slug used as the first folder of a run's path, such as cpu-intel-xeon-processor or nvidia-h100."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{cpu_model()}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


@cache
def git_state() -> dict[str, Any]:
    """Commit of the code that runs and whether it was modified; null when installed without git."""
    commit = _output("git", "rev-parse", "HEAD")
    status = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status) if status is not None else None}


def git_user() -> str | None:
    """The name that commits are made under; null where git knows none."""
    return _output("git", "config", "user.name") or None


def capture(device: torch.device) -> dict[str, Any]:
    """Everything of section 9 of the measurement protocol that this machine can tell."""
    import torch

    gpu: dict[str, Any] = {
        "gpu": None,
        "gpu_driver": None,
        "cuda": None,
        "gpu_clock_mhz": None,
        "gpu_throttle": None,
    }
    if device.type == "cuda":
        fields = "driver_version,clocks.sm,clocks_throttle_reasons.active"
        query = _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        parts = [part.strip() for part in query.splitlines()[0].split(",")] if query else [None] * 3
        gpu = {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_driver": parts[0],
            "cuda": torch.version.cuda,
            "gpu_clock_mhz": parts[1],
            "gpu_throttle": parts[2],
        }
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        **gpu,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "affinity": affinity,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git": git_state(),
    }
