"""Weights of fewer bits, through torchao: the linear layers of all blocks; embeddings, norms and the head
keep the precision of the activations.

int8: one scale per output row. int4: groups of 32 with a scale each; off a GPU a value still takes a byte, so
that there it shows what four bits cost in accuracy and saves no memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.spec import CheckpointError
from harness.model.transformer import Transformer

SCHEMES = ("int8", "int4")
GROUP = 32


def quantize(model: Transformer, scheme: str) -> None:
    """Replace the blocks' linear weights in place; adapters that were not merged stay as they are. Raises
    CheckpointError without torchao, or where a width is no multiple of the group.
    """
    config = _config(scheme, next(model.parameters()).device)
    widths = {part.in_features for part in model.model.layers.modules() if isinstance(part, nn.Linear)}
    if scheme == "int4" and (odd := sorted(width for width in widths if width % GROUP)):
        raise CheckpointError(
            f"--dtype int4 takes widths in multiples of {GROUP}, this model has {odd[0]}: use --dtype int8"
        )
    from torchao.quantization import quantize_

    quantize_(model.model.layers, config)


def _config(scheme: str, device: torch.device) -> Any:
    logging.getLogger("torchao").setLevel(logging.ERROR)  # of kernels for other devices that do not load
    try:
        from torchao.quantization import (
            Int4WeightOnlyConfig,
            Int8WeightOnlyConfig,
            IntxWeightOnlyConfig,
            PerGroup,
        )
    except ImportError:
        raise CheckpointError(
            f"--dtype {scheme} needs torchao: pip install 'dllm-bench[quantize]', or use --dtype bfloat16"
        ) from None
    if scheme == "int8":
        return Int8WeightOnlyConfig()
    if device.type == "cuda":
        return Int4WeightOnlyConfig(group_size=GROUP)
    return IntxWeightOnlyConfig(
        weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
        granularity=PerGroup(GROUP),
    )


def stored(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that hold ``tensor``: itself, or numbers and scales of a quantised one."""
    names = getattr(tensor, "__tensor_flatten__", None)
    if names is None:
        yield tensor.detach()
        return
    for name in names()[0]:
        yield from stored(getattr(tensor, name))
