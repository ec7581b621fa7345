"""All weights of a model divided among ranks (FSDP2): a block is gathered while it computes, embeddings and
head while a loss does.

Losses call a model's ``hidden`` and ``head``, read logits in pieces and compute them again in the backward
pass, each rank as often as its masks ask for. So that all ranks gather equally often, what is gathered as one
is the whole computation of a loss (`Whole`), and not a call of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from harness.model.transformer import Transformer


class Whole(nn.Module):
    """Calls what it is given while the weights outside the blocks are there; ``inside`` tells that they
    are.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.inside = model, False

    def forward(self, work: Any, *given: Any) -> Any:
        self.inside = True
        try:
            return work(*given)
        finally:
            self.inside = False


class Shards:
    """A model whose parameters are divided in place, in float32, among all ranks. Gradients are added up, not
    averaged: a loss is divided by the batches of all ranks already.
    """

    def __init__(self, model: Transformer, device: torch.device, ranks: int) -> None:
        mesh: DeviceMesh = init_device_mesh(device.type, (ranks,))
        self.model, self.root = model, Whole(model)
        for part in (*model.model.layers, self.root):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
            divided = cast(FSDPModule, part)
            divided.set_gradient_divide_factor(1.0)
            divided.set_force_sum_reduction_for_comms(True)  # gloo cannot scale what it adds up
            # A rank without masked places has no gradient of the head, and sends zeros.
            divided.set_reduce_scatter_unused_params(True)

    def loss(self, loss_at: Any, batch: int) -> Iterator[Tensor]:
        """The parts of a batch's loss, each computed with the weights that it needs."""
        found = self.root(loss_at, batch)
        if isinstance(found, Tensor):
            yield found
            return
        parts = iter(cast(Iterable[Tensor], found))
        while (part := self.root(next, parts, None)) is not None:
            yield part

    def regather(self) -> None:
        """Weights have changed in place: within a loss, those outside the blocks are gathered again."""
        if self.root.inside:
            root = cast(FSDPModule, self.root)
            root.reshard()
            root.unshard()

    @torch.no_grad()
    def gathered(self, first: bool) -> dict[str, Tensor]:
        """The undivided weights by name, in the processor's memory of the ``first`` rank, nothing elsewhere;
        all ranks call it.
        """
        return whole_state(self.model.state_dict(), first)


def whole(tensor: Tensor) -> Tensor:
    """The undivided tensor on every rank; any other tensor unchanged."""
    return cast(Any, tensor.detach()).full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of an undivided tensor that all ranks hold, divided as ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    place = tensor.to(like.device)
    return distribute_tensor(place, like.device_mesh, like.placements, src_data_rank=None)


def whole_state(state: Any, first: bool) -> Any:
    """A state dict with undivided tensors on the ``first`` rank, None in their place elsewhere; all ranks
    call it.
    """
    if isinstance(state, DTensor):
        undivided = whole(state)
        return undivided.cpu() if first else None
    if isinstance(state, dict):
        return {name: whole_state(value, first) for name, value in state.items()}
    return [whole_state(value, first) for value in state] if isinstance(state, list) else state


def divided_model(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A whole model's state as this rank's parts. KeyError for a tensor that is missing."""
    return {name: part_of(state[name], own) for name, own in model.state_dict().items()}


def divided_optimiser(state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """The same for an optimiser's: what is shaped as its parameter is divided as that is."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owner = dict(zip(numbers, parameters, strict=True))
    shared = {
        number: {
            name: part_of(value, owner[number]) if value.shape == owner[number].shape else value
            for name, value in held.items()
        }
        for number, held in state["state"].items()
    }
    return {**state, "state": shared}
