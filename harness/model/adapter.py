"""PEFT LoRA adapters: read, checked against a model, merged into it or kept apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from harness.model.load import tensors
from harness.model.recognise import open_family
from harness.model.spec import CheckpointError
from harness.model.transformer import Transformer


class Adapter:
    """A PEFT LoRA adapter read from its folder: ``adapter_config.json`` and weights."""

    def __init__(self, folder: Path) -> None:
        try:
            self.config = json.loads((folder / "adapter_config.json").read_text())
        except FileNotFoundError:
            raise CheckpointError(
                f"no adapter_config.json in {folder}: --adapter must name a PEFT adapter folder"
            ) from None
        if self.config.get("peft_type") != "LORA":
            raise CheckpointError(
                f"adapter {folder} is of type {self.config.get('peft_type')!r}; only LORA is supported"
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
        rank = self.config["r"]
        self.scale = self.config["lora_alpha"] / (rank**0.5 if self.config.get("use_rslora") else rank)
        self.folder = folder
        self.pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors(folder, "adapter_model"):
            found = re.match(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$", name)
            if found is None:
                raise CheckpointError(f"adapter {folder} has an unexpected weight {name}")
            self.pairs.setdefault(found[1], {})[found[2]] = tensor

    def check(self, model: Transformer) -> dict[str, dict[str, Tensor]]:
        """The pairs under the model's own names; CheckpointError unless every adapted module exists with the
        right shape.
        """
        modules, family = dict(model.named_modules()), open_family(model.spec.family)
        pairs = {family.canonical_name(name): pair for name, pair in self.pairs.items()}
        for name, pair in pairs.items():
            linear = modules.get(name)
            shape = (pair["B"].shape[0], pair["A"].shape[1]) if {"A", "B"} <= set(pair) else None
            if not isinstance(linear, torch.nn.Linear) or shape != tuple(linear.weight.shape):
                base = self.config.get("base_model_name_or_path")
                text = f"adapter {self.folder} does not fit this model at {name}: it was trained for {base!r}"
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
