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


MASK = 3


def bayes_masked(z: Tensor, law: Tensor | None = None) -> Tensor:
    """Exact log p(x^l | z^{-l}) [rows, 2, 4] of the two-token language at ids ``z`` [rows, 2] with MASK =
    3.
    """
    table = joint() if law is None else law
    size = len(table)
    padded = torch.cat([table, table.sum(1, keepdim=True)], 1)  # column 3: other token unknown
    first = (padded / padded.sum(0)).T[z[:, 1]]
    turned = torch.cat([table.T, table.sum(0)[:, None]], 1)
    second = (turned / turned.sum(0)).T[z[:, 0]]
    probs = torch.stack([first, second], 1)
    return (
        torch.cat([probs, torch.zeros(*z.shape, 1, dtype=probs.dtype)], -1).log().reshape(len(z), 2, size + 1)
    )


def bayes_uniform(z: Tensor, alpha: Tensor) -> Tensor:
    """Exact leave-one-out log p(x^l | z^{-l}) [rows, 2, 3] under uniform noise at ``alpha`` [rows]."""
    law, size = joint(), 3
    noisy = (
        alpha[:, None, None] * torch.eye(size, dtype=torch.float64) + (1 - alpha)[:, None, None] / size
    )  # [rows, x, z]
    evidence = noisy.gather(2, z[:, None, :].expand(-1, size, -1))  # [rows, x, position]
    first = torch.einsum("xy,ry->rx", law, evidence[:, :, 1])
    second = torch.einsum("xy,rx->ry", law, evidence[:, :, 0])
    probs = torch.stack([first, second], 1)
    return (probs / probs.sum(-1, keepdim=True)).log()


def draw_pairs(rows: int, generator: torch.Generator) -> Tensor:
    """Clean texts [rows, 2] of the two-token language."""
    return torch.stack(
        torch.unravel_index(torch.multinomial(joint().flatten(), rows, True, generator=generator), (3, 3)), 1
    )
