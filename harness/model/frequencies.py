"""Token frequencies of a background corpus, from a JSON file: ``{"num_token": n, "counts": {"id": count}}``,
or several such by model.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.model.spec import ModelSpec
from harness.records.outside import brief, parse_json, read_text

_WANTED = "give a JSON file with num_token and counts"


class FrequencyError(UserError, ValueError):
    """A frequency table that cannot be used, and what to change."""


@lru_cache(maxsize=8)
def read_frequencies(path: str) -> dict[str, Any]:
    """The file's content; FrequencyError where it is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise FrequencyError(f"token_freq={path} cannot be read (no such file): {_WANTED}")
    table = parse_json(
        read_text(file, FrequencyError, _WANTED), f"token_freq={path}", FrequencyError, object, _WANTED
    )
    entries = (
        [table]
        if isinstance(table, dict) and "counts" in table
        else list(table.values())
        if isinstance(table, dict)
        else []
    )
    if not entries or not all(
        isinstance(entry, dict) and _number(entry.get("num_token")) and isinstance(entry.get("counts"), dict)
        for entry in entries
    ):
        raise FrequencyError(
            f"token_freq={path} holds no table: expected num_token (a number above 0) and counts, or a "
            "dictionary of such by model"
        )
    return table


def token_frequencies(path: str, spec: ModelSpec) -> Tensor:
    """Frequency [vocab] of every id, float32: count / num_token where listed, 1 / num_token elsewhere.

    A file with several tables must have one under the checkpoint folder's name. Raises FrequencyError for a
    table of another model.
    """
    return _frequencies(path, spec.name, spec.vocab_size)


@lru_cache(maxsize=8)
def _frequencies(path: str, model: str, vocabulary: int) -> Tensor:
    table = read_frequencies(path)
    if "counts" not in table:
        if model not in table:
            raise FrequencyError(
                f"token_freq={path} has no table for {model}: it has {', '.join(sorted(table))}"
            )
        table = table[model]
    wrong = [id_ for id_, count in table["counts"].items() if not id_.isdecimal() or not _number(count, 0)]
    if wrong:
        raise FrequencyError(
            f"token_freq={path}: the count of {brief(wrong[0])} is no number of an id: {_WANTED}"
        )
    ids = [int(id_[:20]) for id_ in table["counts"]]
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise FrequencyError(
            f"token_freq={path} lists id {max(ids)}, outside the vocabulary of {vocabulary}: it is another "
            "model's table"
        )
    counts = torch.ones(vocabulary)
    counts[ids] = torch.tensor([float(count) for count in table["counts"].values()])
    return counts / table["num_token"]


def _number(value: Any, least: float = 1e-30) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < 1e30
