"""Our folders under names that nobody else's folder takes: ``dllm_bench.harness``, ``.methods``, ``.reports``
and ``.suites``.

The folders import each other by their plain names. Where these lead to our own folders,
``dllm_bench.methods`` is the module ``methods`` under a second name. Where a script has a folder of such a
name beside it, the plain names stay the script's: ours are then loaded as ``dllm_bench.methods`` alone, and
their imports of each other are rewritten when they are compiled.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

NAMES = ("harness", "methods", "reports", "suites")
PREFIX = "dllm_bench."
ROOT = Path(__file__).resolve().parent.parent


def _ours(name: str) -> bool:
    """Whether a plain name leads to our folder, for whoever imports it now."""
    loaded = sys.modules.get(name)
    spec = importlib.util.find_spec(name) if loaded is None else None
    places = spec.submodule_search_locations if spec is not None else getattr(loaded, "__path__", None)
    return [Path(place).resolve() for place in places or ()] == [ROOT / name]


class _Again(Loader):
    """A loader that hands out a module of a plain name."""

    def __init__(self, plain: str) -> None:
        self.plain = plain

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.plain)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put its own there, and a module's spec tells its package.
        module.__spec__ = self.spec


class _Names(ast.NodeTransformer):
    """Imports of our folders, and ``files("folder")``, under the longer names."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and node.module is not None:
            node.module = _longer(node.module)
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for alias in node.names:
            longer = _longer(alias.name)
            found.append(ast.Import([ast.alias(longer, alias.asname)]))
            if longer != alias.name and alias.asname is None:
                # ``import harness.decoding`` binds ``harness``.
                found.append(ast.ImportFrom(PREFIX[:-1], [ast.alias(alias.name.partition(".")[0])], 0))
        return [ast.copy_location(one, node) for one in found]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if (
            isinstance(node.func, ast.Name)
            and node.func.id == "files"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            node.args[0].value = _longer(str(node.args[0].value))
        return self.generic_visit(node)


def _longer(name: str) -> str:
    return PREFIX + name if name.partition(".")[0] in NAMES else name


class Rewriting(SourceFileLoader):
    """Loads a file of our tree, or one written against it, with the longer names in its imports; nothing is
    cached beside it.
    """

    def get_code(self, fullname: str) -> CodeType:
        tree = _Names().visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds ``dllm_bench.<our folder>``; with ``apart`` from our files alone, and the interface itself with
    them.
    """

    def __init__(self, apart: bool) -> None:
        self.apart = apart

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        plain = fullname.removeprefix(PREFIX)
        if plain == fullname or plain.partition(".")[0] not in (*NAMES, "api"):
            return None
        file = (ROOT / "dllm_bench" if plain == "api" else ROOT).joinpath(*plain.split("."))
        inside = file / "__init__.py"
        source = inside if inside.is_file() else file.with_suffix(".py")
        if not source.is_file() or (plain == "api" and not self.apart):
            return None
        if not self.apart:
            return importlib.util.spec_from_loader(
                fullname, _Again(plain), origin=str(source), is_package=source is inside
            )
        places = [str(file)] if source is inside else None
        return importlib.util.spec_from_file_location(
            fullname, source, loader=Rewriting(fullname, str(source)), submodule_search_locations=places
        )


sys.meta_path.insert(0, Finder(apart=not all(map(_ours, NAMES))))
