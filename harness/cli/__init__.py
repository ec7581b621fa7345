"""The ``bench`` command. Each sub-command lives in a module of its own; imports stay lazy so that --help is instant."""

from __future__ import annotations

import logging
import os
import sys

import typer

from harness.errors import UserError

app = typer.Typer(
    name="bench",
    help="Measure how fast, and how good, accelerated diffusion language models are.\n\n"
    "`bench run` without arguments is the quickstart: four methods on two small suites with the shipped nano model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _mount() -> None:
    from harness.cli import commands

    commands.mount(app)


def main() -> None:
    """Entry point of the console script: a user's mistake is one line and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=os.environ.get("BENCH_LOG", "WARNING"), format="%(levelname)s %(message)s", stream=sys.stderr)
    _mount()
    try:
        app()
    except UserError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("bench: interrupted; the same command continues where it stopped", file=sys.stderr)
        sys.exit(130)
