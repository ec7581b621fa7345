"""A model larger than one card: its blocks on several devices, one after the other.

accelerate says which block lies where; hidden states, RoPE's tables and the mask move to a block's device
before it runs. Embedding, final norm, keys and values stay on the first device, where attention runs, and
logits come back to it, so that nothing above the layers knows of the others. Untested until two GPUs have run
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.model.spec import CheckpointError
from harness.model.transformer import Attend, Transformer


@dataclass(frozen=True)
class _AtHome:
    """Attention on the device of keys and values, whichever device its block lies on."""

    attend: Attend
    home: torch.device

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        there = query.device
        mixed = self.attend(layer, query.to(self.home), key.to(self.home), value.to(self.home))
        return mixed.to(there)


@dataclass(frozen=True)
class Places:
    """Where the blocks and the head lie."""

    blocks: Sequence[torch.device]
    head: torch.device


def devices_for(device: torch.device) -> int:
    """How many devices --device-map auto spreads over; CheckpointError where there is only one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if count < 2 or device.index not in (None, 0):
        raise CheckpointError(
            f"--device-map auto needs --device cuda and two cards that are seen (here {count}): leave it "
            "out, or set CUDA_VISIBLE_DEVICES"
        )
    return count


def placed(model: Transformer, room: dict[int, int] | None = None) -> Places:
    """CUDA devices by accelerate's balance; ``room``: bytes of each card that may be used.

    CheckpointError where the cards cannot hold the model.
    """
    from accelerate.utils import get_balanced_memory, infer_auto_device_map

    whole: dict[str, Any] = {"no_split_module_classes": ["Block"]}
    most: dict[Any, Any] = dict(room or get_balanced_memory(model, **whole) or {})
    most["cpu"] = 1 << 60  # so that what does not fit is named here, and goes to no disk
    found: dict[str, Any] = dict(infer_auto_device_map(model, max_memory=most, **whole))
    if strangers := [name for name, place in found.items() if not isinstance(place, int)]:
        raise CheckpointError(
            f"--device-map auto: the cards cannot hold {len(strangers)} parts of this model, the first "
            f"{strangers[0]}: use more cards"
        )

    def card(*names: str) -> torch.device:
        return torch.device("cuda", next(found[name] for name in (*names, "") if name in found))

    count = len(model.model.layers)
    blocks = [card(f"model.layers.{index}", "model.layers", "model") for index in range(count)]
    # A head that is the embedding's own weight lies where that lies.
    return Places(blocks, card("model.embed_tokens" if model.spec.tie_embeddings else "lm_head", "model"))


def spread(model: Transformer, home: torch.device, places: Places) -> Transformer:
    """Move blocks and head to their devices and the rest to ``home``; the model computes as before."""
    for part in (model.model.embed_tokens, model.model.norm, model.model.rotary):
        part.to(home)
    for block, device in zip(model.model.layers, places.blocks, strict=True):
        block.to(device)
        block.register_forward_pre_hook(_moving(device, home))
    model.model.norm.register_forward_pre_hook(_moving(home, home))
    model.lm_head.to(places.head)
    model.lm_head.register_forward_pre_hook(_moving(places.head, home))
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits.to(home))
    model.spread_over = len({home, places.head, *places.blocks})
    return model


def _moving(device: torch.device, home: torch.device) -> Any:
    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, tuple):
            return tuple(map(move, value))
        return _AtHome(cast("Attend", value), home) if callable(value) and device != home else value

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return move(inputs)

    return before
