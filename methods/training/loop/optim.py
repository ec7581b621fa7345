"""Muon for the matrices, AdamW for the rest.

Muon (Jordan et al. 2024): momentum, then an approximate orthogonalisation of the update by a
quintic Newton-Schulz iteration, so that all singular directions of a matrix learn equally fast.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from methods.training.loop.shards import part_of, whole
from methods.training.precision import product_dtype

Shape = Literal["linear", "cosine"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, iterations: int = 5) -> Tensor:
    """Nearest (roughly) semi-orthogonal matrices of ``update`` [count, rows, columns], in the fast type of
    the device.
    """
    a, b, c = COEFFICIENTS
    x = update.to(product_dtype(update.device))
    wide = x.shape[-2] <= x.shape[-1]
    if not wide:
        x = x.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).contiguous()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; matrices of one shape are orthogonalised together."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                updates = self._updates(parameters, group["momentum"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _updates(self, parameters: list[nn.Parameter], momentum: float) -> Iterable[Tensor]:
        """Orthogonalised momenta of matrices of one shape; divided ones are gathered one at a time, and every
        rank does the same work.
        """
        found = (self._momentum(p, momentum) for p in parameters)
        if isinstance(parameters[0], DTensor):
            return (part_of(orthogonalise(whole(one)[None])[0], one) for one in found)
        return orthogonalise(torch.stack(list(found)))

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices inside the blocks, everything else) among the trainable parameters."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inner = parameter.dim() == 2 and "embed_tokens" not in name and "lm_head" not in name
            (matrices if inner else rest).append(parameter)
    return matrices, rest


def build_optimisers(
    model: nn.Module,
    muon_lr: float,
    adam_lr: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
) -> list[torch.optim.Optimizer]:
    """Muon over the blocks' matrices, with the weight decay, and AdamW over embeddings, head, norms and
    biases, with the betas.
    """
    matrices, rest = split_parameters(model)
    muon = Muon(matrices, lr=muon_lr, weight_decay=weight_decay)
    return [muon, torch.optim.AdamW(rest, lr=adam_lr, betas=betas, weight_decay=0.0)]


def set_rates(optimisers: list[torch.optim.Optimizer], scale: float) -> None:
    """Multiply every group's base learning rate by ``scale`` (1 at the top of the schedule)."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * scale


def schedule(step: int, steps: int, warmup: int, decay: float, shape: Shape = "linear") -> float:
    """Linear warm-up, plateau, then a fall to 0 over the last ``decay`` share of the steps, along a line or
    half a cosine.
    """
    start = steps * (1 - decay)
    fall = 1.0 if step < start else max(0.0, (steps - step) / max(1.0, steps - start))
    if shape == "cosine":
        fall = 0.5 - 0.5 * math.cos(math.pi * fall)
    return min(1.0, (step + 1) / max(1, warmup)) * fall
