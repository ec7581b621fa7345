"""The page with the files beside it: samples of a run, pictures and prompts of a table, each made when it is
asked for. The same files are written to a folder or served.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.records.files import digest, write_atomic
from reports.boards import Board
from reports.page import compact, page, questions_name, samples_name
from reports.plots import PLOTS, drawable, stem
from reports.published import Published
from reports.replay import replay
from reports.style import encode
from reports.table import Table, TableRow

Make = Callable[[], bytes]
Ask = Callable[[Table], Mapping[str, Any]]
"""{problem: why nothing is known, or None; documents: {doc_id: {prompt, reference}}} of a table."""


def site(
    boards: Sequence[Board],
    published: Published | None = None,
    samples_per_run: int | None = None,
    ask: Ask | None = None,
) -> dict[str, Make]:
    """Files by name, ``index.html`` first; each is made by calling its value.

    ``samples_per_run`` limits how many samples of each run are there (None: all); without ``ask`` the page
    says that prompts are not stored.
    """
    plots = partial(_addresses, alone=len(boards) == 1)
    files: dict[str, Make] = {"index.html": lambda: page(boards, plots, published, ask is not None).encode()}
    for board in boards:
        for table in board.tables:
            for name, address in plots(board, table):
                files[address] = partial(_picture, table, name)
            if ask is not None:
                name = questions_name(board, table)
                files[f"{name}.js"] = partial(_questions, name, ask, table)
            for row in table.rows:
                name = samples_name(board, table, row.stored.run.run_id)
                files[f"{name}.js"] = partial(_samples, name, row, samples_per_run)
    return files


def write(files: Mapping[str, Make], folder: Path, leave: Sequence[str] = ()) -> list[Path]:
    """Write all files, without those that begin with one of ``leave``; returns their paths."""
    written = []
    for name, make in files.items():
        if not name.startswith(tuple(leave)):
            written.append(folder / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            write_atomic(written[-1], make())
    return written


def single(boards: Sequence[Board], samples_per_run: int | None = None, plots: bool = True) -> str:
    """The page as one file that holds its pictures and samples."""
    inline = {
        samples_name(board, table, row.stored.run.run_id): pack(samples_of(row, samples_per_run))
        for board in boards
        for table in board.tables
        for row in table.rows
    }
    return page(boards, _inside if plots else lambda *_: [], inline=inline)


def samples_of(row: TableRow, limit: int | None) -> list[dict[str, Any]]:
    return [replay(sample) for sample in row.stored.samples[:limit]]


def pack(value: Any) -> str:
    """Gzipped JSON as base64 text, the same for the same value."""
    return base64.b64encode(gzip.compress(compact(value).encode(), 9, mtime=0)).decode()


def _addresses(board: Board, table: Table, alone: bool) -> list[tuple[str, str]]:
    """(name, address) of each picture; tables of several boards may have the same name."""
    folder = "plots" if alone else f"plots/{digest(board.name)}"
    return [(name, f"{folder}/{stem(table, name)}.png") for name in drawable(table)]


def _inside(_: Board, table: Table) -> list[tuple[str, str]]:
    return [
        (name, f"data:image/png;base64,{base64.b64encode(_picture(table, name)).decode()}")
        for name in drawable(table)
    ]


def _picture(table: Table, name: str) -> bytes:
    drawn = PLOTS[name](table)
    assert drawn is not None, f"{name} is drawable"
    return encode(drawn, "png", table.fingerprint)


def _samples(name: str, row: TableRow, limit: int | None) -> bytes:
    return _call(name, samples_of(row, limit))


def _questions(name: str, ask: Ask, table: Table) -> bytes:
    return _call(name, ask(table))


def _call(name: str, value: Any) -> bytes:
    """A script that hands a value to the page; a page that lies in a folder may load scripts alone."""
    return f"receive({json.dumps(name)},{json.dumps(pack(value))})\n".encode()
