"""Losses on a stand-in for a GPU: what they make is made on the device of their inputs; a tensor from the
host is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.training.losses import certainty, couplings, dimo, divergences
from methods.training.losses.sdtt import teacher_times
from tests.card import CARD, Card

ROWS, LENGTH, VOCAB, MASK = 2, 6, 9, 8


def card(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, device=CARD, dtype=dtype)


def logits() -> Tensor:
    return card(ROWS, LENGTH, VOCAB)


def ids() -> Tensor:
    return card(ROWS, LENGTH, dtype=torch.long)


def region() -> Tensor:
    return card(ROWS, LENGTH, dtype=torch.bool)


def noise() -> Tensor:
    return card(ROWS, LENGTH, VOCAB, dtype=torch.float64)


LOSSES: dict[str, Callable[[], Any]] = {
    "sdtt.teacher_times": lambda: teacher_times(card(3), 0.1, 2),
    "certainty.certainty": lambda: certainty.certainty(logits(), ids(), region()).total(),
    "certainty.two_sided": lambda: certainty.two_sided(logits(), logits(), ids(), (region(), region())),
    "certainty.random_masks": lambda: certainty.random_masks(region()),
    "certainty.random_masks of rows": lambda: certainty.random_masks(region(), card(ROWS, 1)),
    "certainty.trajectory_masks": lambda: certainty.trajectory_masks(
        ids(), card(ROWS, dtype=torch.long), 4, card(ROWS)
    ),
    "couplings.uniform": lambda: couplings.uniform_coupling(ids(), VOCAB),
    "couplings.mask": lambda: couplings.mask_coupling(ids(), MASK),
    "couplings.gaussian_noise": lambda: couplings.gaussian_noise(ids(), VOCAB),
    "couplings.gaussian_latent": lambda: couplings.gaussian_latent(ids(), noise(), card(ROWS, 1)),
    "couplings.flip": lambda: couplings.flip(ids(), logits()),
    "dimo.hybrid_start": lambda: dimo.hybrid_start(ids(), region(), MASK, VOCAB),
    "dimo.exact_masks": lambda: dimo.exact_masks(region(), card(ROWS)),
    "dimo.mask_ratio": lambda: dimo.mask_ratio(card(ROWS), "cosine"),
    "dimo.perturb": lambda: dimo.perturb(card(ROWS, LENGTH, 4), region()),
    "dimo.jeffrey_gradient": lambda: dimo.jeffrey_gradient(logits(), logits(), 0.2),
    "dimo.surrogate": lambda: dimo.surrogate(logits(), logits(), region()),
    "dimo.auxiliary_loss": lambda: dimo.auxiliary_loss(logits(), ids(), region()),
    "divergences.forward_kl": lambda: divergences.forward_kl(logits(), logits()),
    "divergences.reverse_kl": lambda: divergences.reverse_kl(logits(), logits()),
    "divergences.log_mse": lambda: divergences.log_mse(logits(), logits()),
}


def tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    parts = found if isinstance(found, tuple | list) else vars(found).values()
    return [tensor for part in parts if not isinstance(part, int | float) for tensor in tensors(part)]


@pytest.mark.parametrize("name", LOSSES)
def test_everything_is_made_on_the_device(name: str) -> None:
    with Card():
        found = tensors(LOSSES[name]())
    assert found
    assert {tensor.device.type for tensor in found} == {CARD.type}


def test_a_tensor_made_on_the_host_is_caught() -> None:
    with Card(), pytest.raises(RuntimeError, match="found the card and cpu"):
        _ = card(3) + torch.ones(3)
    with Card(), pytest.raises(RuntimeError, match="found the card and cpu"):
        torch.where(card(3) > 0, torch.zeros(3), card(3))
