"""Shared pieces of the distillation tests: golden numbers and the exact two-token language."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.conftest import GOLDEN


@cache
def golden() -> dict[str, Any]:
    """Golden numbers of few-step distillation, by name."""
    return json.loads((GOLDEN / "duo.json").read_text())


def joint() -> Tensor:
    """P(x1, x2) [3, 3] of the two-token language used by several golden entries."""
    return torch.tensor(golden()["toy_leave_one_out"]["values"]["P"], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
