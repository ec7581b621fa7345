"""PEFT LoRA adapters: read, checked against a model, merged into it or kept apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from harness.model.catalog import adapter_config
from harness.model.load import finite, tensors
from harness.model.recognise import open_family
from harness.model.spec import CheckpointError
from harness.model.transformer import Transformer
from harness.records.outside import brief

_MOST_RANK = 1 << 16
_MOST_ALPHA = 1e9


class Adapter:
    """A PEFT LoRA adapter read from its folder: ``adapter_config.json`` and weights."""

    def __init__(self, folder: Path) -> None:
        self.config = adapter_config(folder)
        if self.config.get("peft_type") != "LORA":
            raise CheckpointError(
                f"adapter {folder} is of type {brief(self.config.get('peft_type'))}; only LORA is supported"
            )
        for flag in (
            "use_dora",
            "fan_in_fan_out",
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "lora_bias",
        ):
            if self.config.get(flag):
                raise CheckpointError(f"adapter {folder} uses {flag}, which is not supported")
        self.scale = _scale(self.config, folder)
        self.folder = folder
        self.pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors(folder, "adapter_model"):
            found = re.match(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$", name)
            if found is None:
                raise CheckpointError(f"adapter {folder} has an unexpected weight {name}")
            if not tensor.is_floating_point() or not finite(tensor):
                raise CheckpointError(
                    f"{name} of adapter {folder} has numbers that are not finite: change --adapter"
                )
            self.pairs.setdefault(found[1], {})[found[2]] = tensor

    def check(self, model: Transformer) -> dict[str, dict[str, Tensor]]:
        """The pairs under the model's own names; CheckpointError unless every adapted module exists with the
        right shape.
        """
        modules, family = dict(model.named_modules()), open_family(model.spec.family)
        pairs = {family.canonical_name(name): pair for name, pair in self.pairs.items()}
        for name, pair in pairs.items():
            linear = modules.get(name)
            shape = _shape(pair)
            if not isinstance(linear, torch.nn.Linear) or shape != tuple(linear.weight.shape):
                base = brief(self.config.get("base_model_name_or_path"))
                text = f"adapter {self.folder} does not fit this model at {name}: it was trained for {base}"
                raise CheckpointError(f"{text}; change --adapter or --model")
        return pairs

    def merge(self, model: Transformer) -> None:
        """Add scale * B @ A to each adapted weight (in float32, cast back)."""
        pairs, modules = self.check(model), dict(model.named_modules())
        for name, pair in pairs.items():
            weight = cast(Tensor, modules[name].weight)
            delta = pair["B"].to(weight.device, torch.float32) @ pair["A"].to(weight.device, torch.float32)
            weight.data = (weight.data.float() + self.scale * delta).to(weight.dtype)

    def attach(self, model: Transformer) -> None:
        """Keep the adapter apart: each adapted layer computes base(x) + scale * B(A(x))."""
        for name, pair in self.check(model).items():
            parent_name, _, leaf = name.rpartition(".")
            parent = model.get_submodule(parent_name)
            setattr(parent, leaf, LoRALinear(getattr(parent, leaf), pair["A"], pair["B"], self.scale))


def _scale(config: dict[str, Any], folder: Path) -> float:
    """What the product of an adapter's matrices is multiplied by; rank-stabilised: alpha over the root of the
    rank.
    """
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MOST_RANK:
        raise CheckpointError(
            f"{folder / 'adapter_config.json'}: r is {brief(rank)}, and a rank from 1 to "
            f"{_MOST_RANK} is wanted: change --adapter"
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < _MOST_ALPHA:
        raise CheckpointError(
            f"{folder / 'adapter_config.json'}: lora_alpha is {brief(alpha)}, and a number is wanted: change "
            "--adapter"
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _shape(pair: dict[str, Tensor]) -> tuple[int, int] | None:
    """Shape of a pair's product; None for matrices that have none."""
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None or down.dim() != 2 or up.dim() != 2 or up.shape[1] != down.shape[0]:
        return None
    return up.shape[0], down.shape[1]


class LoRALinear(torch.nn.Module):
    """A frozen linear layer with its low-rank update kept apart (inference only)."""

    def __init__(self, base: torch.nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.base = base
        like = base.weight
        self.register_buffer("down", down.to(like.device, like.dtype))
        self.register_buffer("up", up.to(like.device, like.dtype))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        update = torch.nn.functional.linear(torch.nn.functional.linear(x, self.down), self.up)  # pyright: ignore[reportArgumentType]
        return self.base(x) + self.scale * update
