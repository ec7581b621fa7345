"""The layers compiled by torch: all that stands before attention in a layer, and all behind it, as one kernel
each.

Attention and the store stay as they are, and so does the first layer: there a hook counts every forward
pass, which a compiled layer would pass by. One pair of programs serves all layers, whatever the lengths; on a
GPU it is replayed as CUDA graphs, one per length (not run on a GPU yet).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from harness.errors import UserError
from harness.model.transformer import Block, Transformer


class CompileError(UserError, ValueError):
    """Layers that cannot be compiled here; names the flag."""


def compile_layers(model: Transformer, device: torch.device, backend: str = "inductor") -> None:
    """Compile the layers behind the first, in place, and try them. ``backend``: torch.compile's; "eager"
    traces and compiles nothing. Raises CompileError where it cannot be done.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    pieces = (
        torch.compile(Block.before, dynamic=True, mode=mode, backend=backend),
        torch.compile(Block.behind, dynamic=True, mode=mode, backend=backend),
    )
    for block in list(model.model.layers)[1:]:
        assert isinstance(block, Block)
        block.compiled = pieces
    try:
        with torch.inference_mode():
            # Lengths of 1 have programs of their own; made now, so that no clock pays for the usual ones.
            for shape in ((1, 3), (1, 1)):
                model.hidden(torch.zeros(shape, dtype=torch.long, device=device))
    except Exception as error:
        raise CompileError(
            f"--compile: torch could not compile the layers ({str(error).strip().splitlines()[0]}): leave "
            "--compile out"
        ) from error


def check_compiler(device: torch.device) -> None:
    """CompileError where what torch.compile needs is not there: a C++ compiler and Python's headers for a
    CPU, Triton for a GPU.
    """
    if device.type == "cuda":
        lacks = [] if importlib.util.find_spec("triton") else ["Triton (pip install triton)"]
    else:
        compiler = os.environ.get("CXX") or "g++"
        lacks = [] if shutil.which(compiler) else [f"a C++ compiler ({compiler}; CXX names another)"]
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            lacks.append("Python's headers (Python.h)")
    if lacks:
        raise CompileError(f"--compile needs {' and '.join(lacks)}: install it, or leave --compile out")
