"""The policy: one set of weights that decodes, is scored and is trained; replicated, adapted (LoRA) or
sharded (FSDP2).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.decoding.backbone import Backbone
from harness.errors import UserError
from harness.model.load import load_transformer, tensors
from harness.model.recognise import open_family, read_spec
from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.grpo.scoring import Scorer
from methods.training.loop.loop import load_checkpoint, save_checkpoint
from methods.training.options import LINEAR


class PolicyError(UserError, ValueError):
    """A checkpoint that cannot be trained."""


@dataclass(frozen=True)
class PolicyOptions:
    """What is trained and how it is computed.

    rank: of the LoRA adapter on all linear layers of the blocks, 0 trains all weights. precision: of the
    products (autocast); trained weights, gradients and optimiser are float32. snapshot: keep a copy of the
    trained weights as reference, which a full fine-tuning needs and an adapter only when the reference moves.
    spec: what the catalogue makes of the folder's own (end ids, attention), None for that alone.
    """

    folder: Path
    rank: int = 0
    alpha: int = 0
    precision: str = "float32"
    snapshot: bool = True
    positions: int = 2048
    spec: ModelSpec | None = None


class _State(nn.Module):
    """All that changes: trained tensors and their reference copies. Its state_dict is the checkpoint."""

    def __init__(self, trained: list[nn.Parameter], snapshot: bool) -> None:
        super().__init__()
        self.trained = nn.ParameterList(trained)
        for index, parameter in enumerate(trained if snapshot else []):
            self.register_buffer(f"reference_{index}", parameter.detach().clone())


class Policy:
    """Loads the checkpoint; with a ``mesh`` of several workers, full fine-tuning shards it (``fully_shard``
    per layer).
    """

    def __init__(self, options: PolicyOptions, device: torch.device, mesh: Any = None) -> None:
        self.options, self.device = options, device
        frozen = torch.bfloat16 if options.rank and device.type == "cuda" else torch.float32
        self.model: Transformer = load_transformer(options.folder, frozen, device, options.spec)
        if self.model.spec.mask_id is None:
            raise PolicyError(f"{options.folder} has no mask token: --model must be a masked diffusion model")
        self.model.matmul_attention = device.type == "cpu"
        self.peft = self._adapt() if options.rank else None
        self._grow(self.model, torch.float32)
        scorer = Scorer(self.model, self.model.spec.mask_id)
        self.sharded = mesh is not None and mesh.size() > 1 and not options.rank
        if self.peft is None:
            self.model.requires_grad_(True)
        self.scorer = self._shard(scorer, mesh) if self.sharded else scorer
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.state = _State(trained, options.snapshot)
        self.replica = self._replica() if self.sharded else self.model

    def _adapt(self) -> PeftModel:
        torch.manual_seed(0)
        alpha = self.options.alpha or self.options.rank
        config = LoraConfig(
            r=self.options.rank, lora_alpha=alpha, target_modules=list(LINEAR), bias="none", lora_dropout=0.0
        )
        return PeftModel(self.model, config)  # pyright: ignore[reportArgumentType]

    def _grow(self, model: Transformer, dtype: torch.dtype) -> None:
        # Position tables made while decoding would be inference tensors, which cannot be trained through.
        wide = torch.float32 if model.spec.rope_fp32 else dtype
        model.model.rotary.grow(min(self.options.positions, model.spec.max_positions), self.device, wide)

    def _shard(self, scorer: Scorer, mesh: Any) -> nn.Module:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy()
        if self.options.precision == "bfloat16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in self.model.model.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(scorer, mesh=mesh, mp_policy=policy)
        return scorer

    def _replica(self) -> Transformer:
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = load_transformer(self.options.folder, dtype, self.device, self.options.spec)
        model.matmul_attention = self.model.matmul_attention
        self._grow(model, dtype)
        return model

    @property
    def trained(self) -> list[nn.Parameter]:
        """Tensors that an optimiser step changes."""
        return list(self.state.trained)

    def computing(self) -> AbstractContextManager[Any]:
        """Autocast to the precision asked for."""
        if self.options.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def score(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See Scorer.forward."""
        with self.computing():
            return self.scorer(*inputs)

    @torch.no_grad()
    def backbone(self) -> Backbone:
        """The current weights for the harness' decoders. All workers call it together: shards are gathered
        into a whole copy.
        """
        if self.sharded:
            for own, whole in zip(self.model.parameters(), self.replica.parameters(), strict=True):
                whole.copy_(_whole(own))
        return Backbone(self.replica, self.device, next(self.replica.parameters()).dtype)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Compute as the reference policy: adapter off, or the weights of the last ``sync_reference``."""
        if not self.options.snapshot:
            assert self.peft is not None
            with self.peft.disable_adapter():
                yield
            return
        own = [parameter.detach().clone() for parameter in self.trained]
        self._set([self.state.get_buffer(f"reference_{index}") for index in range(len(own))])
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.trained, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def sync_reference(self) -> None:
        """The reference becomes the present policy."""
        for index, parameter in enumerate(self.trained):
            self.state.get_buffer(f"reference_{index}").copy_(parameter)

    def reduce_gradients(self, world: int) -> None:
        """Average replicated gradients over the workers in one all-reduce; shards are reduced by FSDP
        itself.
        """
        if world == 1 or self.sharded:
            return
        for parameter in self.trained:
            if parameter.grad is None:  # a worker all of whose groups were filtered out
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world
        for gradient, part in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def save(
        self, path: Path, optimiser: torch.optim.Optimizer, step: int, seconds: float, rank: int
    ) -> None:
        """Write the checkpoint; shards are one file per worker."""
        if self.sharded or rank == 0:
            save_checkpoint(self._file(path, rank), self.state, [optimiser], step, seconds)

    def load(self, path: Path, optimiser: torch.optim.Optimizer, rank: int) -> tuple[int, float]:
        """Finished steps and seconds of the checkpoint, (0, 0.0) if there is none."""
        return load_checkpoint(self._file(path, rank), self.state, [optimiser])

    def _file(self, path: Path, rank: int) -> Path:
        return (
            path.with_name(f"{path.stem}-{rank}-of-{dist.get_world_size()}{path.suffix}")
            if self.sharded
            else path
        )

    def export(self, folder: Path, rank: int) -> None:
        """Write what ``bench run`` loads: a PEFT adapter, or a checkpoint with the names of the one training
        started from.
        """
        whole = (
            {name: _whole(parameter) for name, parameter in self.model.named_parameters()}
            if self.peft is None
            else {}
        )
        if rank:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.peft is not None:
            self.peft.peft_config["default"].base_model_name_or_path = self.options.folder.name
            self.peft.save_pretrained(str(folder), selected_adapters=["default"])
            return
        for file in self.options.folder.iterdir():
            if file.is_file() and ".safetensors" not in file.name and file.name != "README.md":
                shutil.copy(file, folder / file.name)
        family = open_family(read_spec(self.options.folder).family)
        names = {name: family.canonical_name(name) for name, _ in tensors(self.options.folder)}
        # Not in bfloat16: its steps near a weight are as large as what a short training changes.
        state = {
            name: whole[ours].detach().cpu().contiguous() for name, ours in names.items() if ours in whole
        }
        save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard; any other tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore[reportAttributeAccessIssue]
