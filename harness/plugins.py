"""What others add: objects found by entry point, or in a Python file given by path."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import operator
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.errors import UserError


@dataclass(frozen=True)
class Plugin:
    """An object and where it came from (``source``: 'built-in', a distribution, or the file's sha256)."""

    value: Any
    source: str


@cache
def registered(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def from_entry_point(point: EntryPoint) -> Plugin:
    """What an entry point names."""
    owner = point.dist.name if point.dist is not None else ""
    if owner != "dllm-bench":
        return Plugin(point.load(), owner)
    return Plugin(operator.attrgetter(point.attr)(importlib.import_module(_module(point))), "built-in")


def _module(point: EntryPoint) -> str:
    # Ours go by a longer name where a script has a folder of the same name beside it (dllm_bench._tree).
    ours = point.dist is not None and point.dist.name == "dllm-bench"
    return (__name__.removesuffix("harness.plugins") if ours else "") + point.module


def source_of(point: EntryPoint) -> ast.Module:
    """The parsed source of the module that an entry point names, which is not imported; an empty one where
    there is none to read.
    """
    try:
        spec = importlib.util.find_spec(_module(point))
        return ast.parse(Path(spec.origin).read_text() if spec is not None and spec.origin else "")
    except (ImportError, OSError, SyntaxError, ValueError):
        return ast.parse("")


def names_of_file(path: Path, body: bytes, attribute: str) -> tuple[str, str]:
    """The module's name and the ``source`` of a Python file that holds ``body``."""
    digest = hashlib.sha256(body).hexdigest()
    return f"dllm_bench_{attribute.lower()}_{path.stem}_{digest[:8]}", f"sha256:{digest[:16]}"


def from_file(path: Path, attribute: str, error: type[UserError]) -> Plugin:
    """``attribute`` of a Python file, which is run; ``error`` for a file that cannot be imported or lacks
    it.
    """
    name, source = names_of_file(path, path.read_bytes(), attribute)
    # As this module was loaded: so a file finds the same modules as the harness does.
    loader = type(__loader__) if isinstance(__loader__, SourceFileLoader) else SourceFileLoader
    spec = importlib.util.spec_from_file_location(name, path, loader=loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        raise error(f"{path} could not be imported: {type(fault).__name__}: {fault}") from fault
    if not hasattr(module, attribute):
        raise error(f"{path} defines no {attribute}: end the file with {attribute} = ...")
    return Plugin(getattr(module, attribute), source)


def did_you_mean(name: str, known: list[str]) -> str:
    """The nearest known name as a hint, or nothing."""
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}? " if close else ""
