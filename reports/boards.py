"""Boards: runs that were made together, in the folder that their report belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.load import StoredRun
from reports.table import Table, build


@dataclass(frozen=True)
class Board:
    """The runs of one folder and their tables; rows of different boards are never compared."""

    name: str
    runs: Sequence[StoredRun]
    tables: Sequence[Table]


def boards(root: Path, runs: Sequence[StoredRun]) -> list[Board]:
    """The boards below a folder: runs lie in BOARD/DEVICE/SUITE/RUN. ``root`` itself is one where they lie
    less deep.
    """
    groups: dict[Path, list[StoredRun]] = {}
    for stored in runs:
        groups.setdefault(_folder(stored.folder, root), []).append(stored)
    return [Board(_name(folder, root), group, build(group)) for folder, group in sorted(groups.items())]


def _folder(run: Path, root: Path) -> Path:
    inside = len(run.relative_to(root).parts) >= 3 if run.is_relative_to(root) else False
    return run.parents[2] if inside else root


def _name(folder: Path, root: Path) -> str:
    return root.resolve().name if folder == root else folder.relative_to(root).as_posix()
