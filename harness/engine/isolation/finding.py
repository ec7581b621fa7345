"""From the name of a method to its decoder, behind the glass unless it is the project's own."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING

from harness.decoding.registry import ADDED, GROUP, Method, MethodError, load_method
from harness.plugins import names_of_file, registered

if TYPE_CHECKING:
    from harness.engine.isolation.decoder import IsolatedDecoder


def find_method(name: str, isolate: bool | None = None) -> Method:
    """A method by registered name or by path, as ``load_method``.

    ``isolate``: true runs it behind the glass, false in this process; null: behind the glass if it is from a
    file or another package. A method registered in this process is an object of it and runs there.
    Raises MethodError, or JailError where nothing isolates.
    """
    if name in ADDED:
        return ADDED[name]
    if isolate is False:
        return replace(load_method(name), isolated=False)
    if name.endswith(".py") or "/" in name:
        return _from_file(Path(name))
    point = registered(GROUP).get(name)
    own = point is None or point.dist is None or point.dist.name == "dllm-bench"
    if point is None or (own and not isolate):
        return load_method(name)
    origin = {"name": name, "entry": point.value}
    places = () if own or point.dist is None else _places(point.dist, point.module)
    return Method(_opened(places, origin), "built-in" if own or point.dist is None else point.dist.name, True)


def _from_file(path: Path) -> Method:
    try:
        body = path.read_bytes()
        text = body.decode()
    except UnicodeDecodeError:
        raise MethodError(f"method file {str(path)!r} is no UTF-8 text") from None
    except OSError:
        return load_method(str(path))  # says what is wrong with it
    module, source = names_of_file(path, body, "METHOD")
    return Method(_opened((), {"text": text, "path": str(path), "module": module}), source, True)


def _opened(places: tuple[Path, ...], origin: dict[str, str]) -> IsolatedDecoder:
    from harness.engine.isolation.decoder import IsolatedDecoder  # both import torch
    from harness.engine.isolation.glass import Packages, glass_for

    return IsolatedDecoder(glass_for(Packages(places)), origin)


def _places(owner: Distribution, module: str) -> tuple[Path, ...]:
    """The top-level package or module that the entry point lies in, as it is installed."""
    top = module.partition(".")[0]
    names = {str(file).partition("/")[0] for file in owner.files or ()}
    found = [Path(str(owner.locate_file(name))) for name in (top, f"{top}.py") if name in names]
    if not found:
        raise MethodError(
            f"the package of {module} is not installed as files that a jail can be shown; pass --no-isolate"
        )
    return tuple(found)
