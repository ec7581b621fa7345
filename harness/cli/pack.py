"""``bench pack``: stored samples made small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.records.packing import pack_run, unpack_run
from harness.records.schema import RecordError, find_runs


def pack_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders with runs, searched at any depth.", metavar="PATH...")
    ],
    undo: Annotated[bool, typer.Option("--unpack", help="Make plain samples.jsonl of packed ones.")] = False,
) -> None:
    """Compress the samples of finished runs (samples.jsonl.xz, about a tenth), to be kept or committed.

    Nothing is lost: every command reads packed runs as it reads plain ones, and a run that is continued is
    unpacked first. The same samples give the same bytes. Incomplete runs are left as they are and named.

    Example:  bench pack results/leaderboard
    """
    folders = []
    for path in paths:
        found = list(find_runs(path))
        if not found:
            raise RecordError(
                f"no runs below {path}: give a run folder, or the folder that `bench run --output_path` "
                "wrote to"
            )
        folders += found
    before, left = sum(map(_size, folders)), 0
    for folder in folders:
        reason = unpack_run(folder) if undo else pack_run(folder)
        if reason is not None:
            left += 1
            typer.echo(f"{folder} is left as it is: {reason}")
    what = "unpacked" if undo else "packed"
    typer.echo(
        f"{len(folders) - left} runs {what}: {before / 1e6:.1f} MB before, "
        f"{sum(map(_size, folders)) / 1e6:.1f} MB now"
    )


def _size(folder: Path) -> int:
    """Bytes of the files of a run folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
