"""``bench list``: methods, suites, models and their settings."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.decoding.registry import method_names, method_summary
from harness.decoding.settings import describe
from harness.engine.isolation.finding import find_method
from harness.model.catalog import catalog
from harness.records.printable import in_console, printable
from suites.suite import list_suites, load_suite


def list_command(
    what: Annotated[
        str, typer.Argument(help="methods, suites, models, or one method's name or file.")
    ] = "all",
) -> None:
    """Show what can be run, with every setting, its default and what it does."""

    console = Console()
    if what in ("all", "methods"):
        _methods(console)
    if what in ("all", "suites"):
        _suites(console)
    if what in ("all", "models"):
        _models(console)
    if what not in ("all", "methods", "suites", "models"):
        _settings(console, what)


def _methods(console: Console) -> None:
    table = Table("method", "what it is", title="Methods (`bench list NAME`: its settings)", box=SIMPLE_HEAD)
    for name in method_names():
        table.add_row(name, in_console(method_summary(name)))
    console.print(table)


def _settings(console: Console, name: str) -> None:
    method = find_method(name)
    table = Table(title=f"{method.name}: {method.decoder.summary}", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    for heading in ("values", "default", "meaning"):
        table.add_column(heading)
    for row in describe(method.decoder.Config):
        table.add_row(*row)
    console.print(table)
    console.print(f"requires: {', '.join(sorted(method.decoder.requires)) or 'nothing'}")


def _suites(console: Console) -> None:
    table = Table(
        "suite",
        "what it is",
        title="Suites (`bench suite show NAME` prints a prompt and its grading)",
        box=SIMPLE_HEAD,
    )
    for name in list_suites():
        table.add_row(name, load_suite(name).title)
    console.print(table)


def _models(console: Console) -> None:
    # Names of the hub are long, and cut they are of no use: a paragraph each.
    console.print("Known models (any folder or hub id with these layouts works)", style="table.title")
    for name, entry in catalog().items():
        canvas = "" if entry.canvas is None else f"; canvas {entry.canvas}"
        console.print(Text(printable(name), style="bold"))
        console.print(Padding(Text(printable(f"{entry.summary}{canvas}")), (0, 0, 0, 4)))
        for key, value in entry.companions.items():
            console.print(Padding(Text(printable(f"{key}: {value}")), (0, 0, 0, 4)))
