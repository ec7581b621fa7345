"""Sub-commands by entry point (group ``dllm_bench.commands``): listed from their source, imported only when
they run.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from harness.engine.ranks import one_process
from harness.errors import Interrupted
from harness.plugins import source_of

GROUP = "dllm_bench.commands"
ORDER = (
    "run",
    "list",
    "doctor",
    "decode",
    "generate",
    "check",
    "compare",
    "report",
    "trace",
    "project",
    "speed",
    "sweep",
    "suite",
    "grade",
    "score",
    "submit",
    "verify",
)


RANKED = ("lm-eval", "train")
"""Commands that share their work among the ranks of a launcher, or refuse them with advice of their own."""


@cache
def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


class CommandGroup(TyperGroup):
    """Shows every command without importing it; a command is a function or a Typer app."""

    # Typer brings click along under a name of its own in some releases: hence Any.
    def list_commands(self, ctx: Any) -> list[str]:
        rank = {name: place for place, name in enumerate(ORDER)}
        return sorted(_points(), key=lambda name: (rank.get(name, len(rank)), name))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with the command's help; ``resolve_command`` loads the real one."""
        point = _points().get(cmd_name)
        return None if point is None else TyperCommand(cmd_name, help=_help(point))

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C leaves as an error of ours; Typer would turn it into a silent exit status."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name not in RANKED:
            one_process(f"bench {name}")
        return name, None if command is None or name is None else _load(name), rest


def _load(name: str) -> Any:
    found: Any = _points()[name].load()
    if not isinstance(found, typer.Typer):
        single = typer.Typer(
            add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
        )
        single.command(name)(found)
        found = single
    command = get_command(found)
    command.name = name
    return command


def _help(point: EntryPoint) -> str:
    """First line of the function's docstring, or of its module's where the entry point names an app."""
    tree = source_of(point)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == point.attr]
    text = (ast.get_docstring(functions[0] if functions else tree) or "").split("\n")[0]
    return re.sub(r"^`+bench [\w -]+`+: ", "", text)
