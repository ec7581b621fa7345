"""Token frequencies of a background corpus, from a JSON file: ``{"num_token": n, "counts": {"id": count}}``,
or several such by model.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.model.spec import ModelSpec


class FrequencyError(UserError, ValueError):
    """A frequency table that cannot be used, and what to change."""


@lru_cache(maxsize=8)
def read_frequencies(path: str) -> dict[str, Any]:
    """The file's content; FrequencyError where it is none."""
    try:
        table = json.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise FrequencyError(
            f"token_freq={path} cannot be read ({error}): give a JSON file with num_token and counts"
        ) from None
    entries = (
        [table]
        if isinstance(table, dict) and "counts" in table
        else list(table.values())
        if isinstance(table, dict)
        else []
    )
    if not entries or not all(
        isinstance(entry, dict) and {"num_token", "counts"} <= set(entry) for entry in entries
    ):
        raise FrequencyError(
            f"token_freq={path} holds no table: expected num_token and counts, or a dictionary of such "
            "by model"
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
    ids = [int(id_) for id_ in table["counts"]]
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise FrequencyError(
            f"token_freq={path} lists id {max(ids)}, outside the vocabulary of {vocabulary}: it is another "
            "model's table"
        )
    counts = torch.ones(vocabulary)
    counts[ids] = torch.tensor([float(count) for count in table["counts"].values()])
    return counts / table["num_token"]
