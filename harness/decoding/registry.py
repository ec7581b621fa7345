"""Finding decoders: the entry-point group ``dllm_bench.methods``, or a Python file given by path."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.decoding.decoder import Decoder
from harness.errors import UserError

GROUP = "dllm_bench.methods"
_MEMBERS = ("name", "Config", "requires", "decode")


class MethodError(UserError, ValueError):
    """No such method, or a file that holds none."""


@dataclass(frozen=True)
class Method:
    """A decoder and where it came from (``source``: 'built-in', a distribution, or the file's sha256)."""

    decoder: Decoder
    source: str

    @property
    def name(self) -> str:
        return self.decoder.name


@cache
def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def method_names() -> list[str]:
    """Names of all registered methods."""
    return sorted(_registered())


def load_method(name: str) -> Method:
    """A method by registered name or by path (``./mine.py``); MethodError lists what there is."""
    if name.endswith(".py") or "/" in name:
        return _from_file(Path(name))
    point = _registered().get(name)
    if point is None:
        close = difflib.get_close_matches(name, method_names(), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise MethodError(f"unknown method {name!r}: {hint}--method takes {', '.join(method_names())}, or a file such as ./mine.py")
    decoder = _checked(point.load(), f"entry point {name}")
    owner = point.dist.name if point.dist is not None else ""
    return Method(decoder, "built-in" if owner == "dllm-bench" else owner)


def _from_file(path: Path) -> Method:
    if not path.is_file():
        raise MethodError(f"method file {str(path)!r} not found: --method takes a name ({', '.join(method_names())}) or a Python file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module_name = f"dllm_bench_method_{path.stem}_{digest[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MethodError(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, "METHOD"):
        raise MethodError(f"{path} defines no METHOD: end the file with METHOD = YourDecoder()")
    return Method(_checked(module.METHOD, str(path)), f"sha256:{digest[:16]}")


def _checked(decoder: Any, origin: str) -> Decoder:
    missing = [member for member in _MEMBERS if not hasattr(decoder, member)]
    if missing:
        raise MethodError(f"METHOD of {origin} lacks {', '.join(missing)} (see CONTRIBUTING.md)")
    return decoder
