"""Finding decoders: the entry-point group ``dllm_bench.methods``, or a Python file given by path."""

from __future__ import annotations

import ast
import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plugins import did_you_mean, from_entry_point, from_file, registered, source_of

if TYPE_CHECKING:
    from harness.decoding.decoder import Decoder

GROUP = "dllm_bench.methods"
_MEMBERS = ("name", "Config", "requires", "decode")


class MethodError(UserError, ValueError):
    """No such method, or a file that holds none."""


@dataclass(frozen=True)
class Method:
    """A decoder and where it came from (``source``: 'built-in', a distribution, or the file's sha256).

    ``isolated``: whether it runs in a jail (null: the project's own, where nobody asked for either).
    """

    decoder: Decoder
    source: str
    isolated: bool | None = None

    @property
    def name(self) -> str:
        return self.decoder.name


ADDED: dict[str, Method] = {}
"""Methods registered in this process, by name."""


def method_names() -> list[str]:
    """Names of all registered methods."""
    return sorted({**registered(GROUP), **ADDED})


def method_summary(name: str) -> str:
    """What a registered method says it is. Read from its source, so that nothing is imported; a method that
    is no plain ``METHOD = Class()`` beside ``summary = "..."`` is imported after all.
    """
    if name in ADDED:
        return ADDED[name].decoder.summary
    point = registered(GROUP)[name]
    made, summaries = None, {}
    for node in source_of(point).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call(func=ast.Name(id=kind))):
                made = kind if target == point.attr else made
            case ast.ClassDef():
                summaries[node.name] = _literal(node, "summary")
    return summaries.get(made) or load_method(name).decoder.summary


def _literal(node: ast.ClassDef, attribute: str) -> str | None:
    for part in node.body:
        match part:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                if name == attribute:
                    return text
    return None


def register_method(decoder: Any) -> Method:
    """Make a decoder known in this process by its name; one of the same name gives way. MethodError for a
    thing that is none.
    """
    try:
        digest = hashlib.sha256(inspect.getsource(type(decoder)).encode()).hexdigest()
    except (OSError, TypeError):
        digest = None
    check_members(decoder, f"this process ({type(decoder).__name__})")
    ADDED[decoder.name] = Method(
        decoder, "this process" if digest is None else f"sha256:{digest[:16]}", False
    )
    return ADDED[decoder.name]


def load_method(name: str) -> Method:
    """A method by registered name or by path (``./mine.py``); MethodError lists what there is."""
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise MethodError(
                f"method file {str(path)!r} not found: --method takes a name ({', '.join(method_names())}) "
                "or a Python file"
            )
        plugin, origin = from_file(path, "METHOD", MethodError), name
    elif name in ADDED:
        return ADDED[name]
    elif point := registered(GROUP).get(name):
        plugin, origin = from_entry_point(point), f"entry point {name}"
    else:
        names = method_names()
        hint = did_you_mean(name, names)
        raise MethodError(
            f"unknown method {name!r}: {hint}--method takes {', '.join(names)}, or a file such as ./mine.py"
        )
    check_members(plugin.value, origin)
    return Method(plugin.value, plugin.source, None if plugin.source == "built-in" else False)


def check_members(decoder: Any, origin: str) -> None:
    """MethodError unless the object has the members of a decoder."""
    if missing := [member for member in _MEMBERS if not hasattr(decoder, member)]:
        raise MethodError(f"METHOD of {origin} lacks {', '.join(missing)} (see CONTRIBUTING.md)")
