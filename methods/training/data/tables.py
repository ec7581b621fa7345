"""Rows of training files: JSON lines, Parquet, Arrow, and folders of these, as Hugging Face datasets are
saved; read a few at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records.outside import parse_json, read_json, reason

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")
BATCH = 1024
"""Rows of a Parquet file that are held at a time."""
SPLIT = "train"


def table_files(path: Path, error: type[UserError]) -> list[Path]:
    """The files of a training set in order: ``path`` itself, those a saved dataset names (of several splits
    the one called train), or all of a folder that can be read.
    """
    if not path.exists():
        raise error(f"{path} does not exist: name a JSON lines, Parquet or Arrow file, or a folder of these")
    if not path.is_dir():
        if not path.is_file():
            raise error(f"{path} is no regular file: name a JSON lines, Parquet or Arrow file")
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = read_json(path / "dataset_dict.json", error).get("splits", [])
        if SPLIT not in splits:
            raise error(f"{path} has no split {SPLIT}: name one of its folders {', '.join(map(str, splits))}")
        path = path / SPLIT
    if (path / "state.json").is_file():
        listed = read_json(path / "state.json", error).get("_data_files", [])
        names = [one.get("filename") for one in listed if isinstance(one, dict)]
        found = [path / Path(name).name for name in names if isinstance(name, str)]
    else:
        found = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix in SUFFIXES)
        found = [one for one in found if one.suffix != ".json" and not one.name.endswith(".card.json")]
    if not found or not all(one.is_file() for one in found):
        raise error(f"{path} does not hold all its files, or none ending in {', '.join(SUFFIXES)}")
    return found


def table_rows(
    path: Path, columns: Sequence[str], error: type[UserError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, values) of every row of a training set; of Parquet and Arrow only the ``columns``
    there are, without those that are null. Raises ``error`` naming the file, and the line, that is none.
    """
    for file in table_files(path, error):
        if file.suffix == ".parquet":
            yield from _parquet(file, columns, error)
        elif file.suffix == ".arrow":
            yield from _arrow(file, columns, error)
        else:
            yield from _lines(file, error)


def _lines(path: Path, error: type[UserError]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path} line {number}"
                yield where, parse_json(line, where, error)


def _parquet(
    path: Path, columns: Sequence[str], error: type[UserError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kept = _kept(path, file.schema_arrow.names, columns, error)
            yield from _numbered(path, file.iter_batches(BATCH, columns=kept), kept)
    except (pa.ArrowException, OSError) as fault:
        raise error(f"{path} cannot be read as Parquet ({reason(fault)})") from None


def _arrow(
    path: Path, columns: Sequence[str], error: type[UserError]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            kept = _kept(path, stream.schema.names, columns, error)
            yield from _numbered(path, stream, kept)
    except (pa.ArrowException, OSError) as fault:
        raise error(f"{path} cannot be read as an Arrow stream ({reason(fault)})") from None


def _kept(path: Path, names: Sequence[str], columns: Sequence[str], error: type[UserError]) -> list[str]:
    kept = [name for name in columns if name in names]
    if not kept:
        raise error(f"{path} has the columns {', '.join(names)} and none of {', '.join(columns)}")
    return kept


def _numbered(path: Path, batches: Any, kept: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for row in batch.select(kept).to_pylist():
            number += 1
            yield f"{path} row {number}", {name: value for name, value in row.items() if value is not None}


def hash_files(files: Sequence[Path], root: Path | None = None) -> str:
    """sha256 (16 hex digits) of the content of files; with ``root``, of their names below it too."""
    whole = hashlib.sha256()
    for path in files:
        if root is not None:
            whole.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                whole.update(part)
    return whole.hexdigest()[:16]
