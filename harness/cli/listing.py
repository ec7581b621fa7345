"""``bench list``: methods, suites, models and their settings."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from harness.decoding.registry import method_names, method_summary
from harness.decoding.settings import describe
from harness.engine.isolation.finding import find_method
from harness.model.catalog import catalog
from harness.records.printable import in_console
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
    table = Table("method", "what it is", title="Methods (`bench list NAME`: its settings)")
    for name in method_names():
        table.add_row(name, in_console(method_summary(name)))
    console.print(table)


def _settings(console: Console, name: str) -> None:

    method = find_method(name)
    table = Table("setting", "values", "default", "meaning", title=f"{method.name}: {method.decoder.summary}")
    for row in describe(method.decoder.Config):
        table.add_row(*row)
    console.print(table)
    console.print(f"requires: {', '.join(sorted(method.decoder.requires)) or 'nothing'}")


def _suites(console: Console) -> None:

    table = Table(
        "suite", "what it is", title="Suites (`bench suite show NAME` prints a prompt and its grading)"
    )
    for name in list_suites():
        table.add_row(name, load_suite(name).title)
    console.print(table)


def _models(console: Console) -> None:

    table = Table(
        "model",
        "what it is",
        "canvas",
        "companions",
        title="Known models (any folder or hub id with these layouts works)",
    )
    for name, entry in catalog().items():
        table.add_row(
            in_console(name),
            in_console(entry.summary),
            str(entry.canvas or ""),
            in_console(", ".join(f"{key}: {value}" for key, value in entry.companions.items())),
        )
    console.print(table)
