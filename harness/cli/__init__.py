"""The ``bench`` command: finds its sub-commands by entry point and loads the one that is asked for."""

from __future__ import annotations

import errno
import logging
import os
import sys

import typer

from harness import __version__
from harness.cli.group import CommandGroup
from harness.errors import Interrupted, UserError
from harness.records.printable import printable

_IN_THE_WAY = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""What is wrong with a path that was given, and no fault of the program."""

app = typer.Typer(
    name="bench",
    cls=CommandGroup,
    help="Measure how fast, and how good, accelerated diffusion language models are.\n\n"
    "`bench run` without arguments is the quickstart: four methods on two small suites with the shipped "
    "nano model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"dllm-bench {__version__}")
        raise typer.Exit


@app.callback()
def bench(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Measure how fast, and how good, accelerated diffusion language models are.

    `bench run` without arguments is the quickstart: four methods on two small suites with the shipped nano
    model.
    """


def main() -> None:
    """Entry point of the console script: a user's mistake or a full disk is one line and exit status 2,
    Ctrl-C one line and 130.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(
        level=os.environ.get("BENCH_LOG", "WARNING"), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        app()
    except Interrupted as error:
        print(f"bench: {printable(error)}", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"bench: error: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno in _IN_THE_WAY and error.filename:
            print(f"bench: error: {printable(error.filename)}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" for {error.filename}" if error.filename else ""
        print(
            f"bench: error: no space left on the disk{place}: make room and give the same command again",
            file=sys.stderr,
        )
        sys.exit(2)
