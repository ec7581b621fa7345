"""Whether the weights in memory are still those that were loaded."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from harness.decoding.backbone import Backbone
from harness.model.quantize import stored
from harness.records.schema import AuditCheck

_PIECE = 1 << 24


@torch.inference_mode()
def fingerprint(backbone: Backbone) -> str:
    """A hash over name, shape, type and sums of every parameter, and the number of layers (16 hex digits).

    Sums in float64 over pieces of 16 Mi values: any change that decides a token changes them; who looks for
    values with the same sums can find some.
    """
    model = backbone._model
    found = hashlib.sha256(str(len(model.model.layers)).encode())
    for name, tensor in model.named_parameters():
        for part in stored(tensor):
            found.update(f"{name} {tuple(part.shape)} {part.dtype} {_sums(part)}".encode())
    return found.hexdigest()[:16]


def _sums(tensor: Tensor) -> list[tuple[float, float]]:
    pieces = [piece.double() for piece in tensor.reshape(-1).split(_PIECE)]
    return [
        (float(piece.sum()), float((piece * torch.arange(1, 1 + len(piece), device=piece.device)).sum()))
        for piece in pieces
    ]


def weights_check(before: str, now: str) -> AuditCheck:
    """The audit's check of the weights: fingerprints at the start and at the end."""
    same = now == before
    return AuditCheck(
        name="weights_unchanged",
        passed=same,
        detail="" if same else f"fingerprint {before} at the start, {now} at the end",
    )
