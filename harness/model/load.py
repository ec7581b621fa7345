"""Checkpoints and adapters: real layouts in, one Transformer out.

Sharded or single-file safetensors, with the names of their family (harness.model.family), plus PEFT LoRA
adapters. Published remote code is never executed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.model.recognise import open_family, read_spec
from harness.model.spec import CheckpointError, ModelSpec
from harness.model.transformer import Transformer

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "tokenizer*")
"""Files of a hub repository that are fetched: configuration, weights, tokenizer; never code."""


def resolve(name: str, flag: str = "--model") -> Path:
    """A local folder for a path or hub id; CheckpointError names ``flag`` when there is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        known = "Dream-org/Dream-v0-Base-7B, or nano"
        if flag == "--adapter":
            known = "SJTU-Deng-Lab/D2F_Dream_Base_7B_Lora, or none"
        raise CheckpointError(f"{name!r} not found: {flag} takes a folder, a hub id such as {known}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        text = (
            f"{name!r} is no local folder and could not be fetched from the hub ({reason}); pass "
            f"{flag} FOLDER"
        )
        if flag == "--adapter":
            text += ", or --adapter none for the bare checkpoint"
        raise CheckpointError(text) from None


def tensors(folder: Path, stem: str = "model") -> Iterator[tuple[str, Tensor]]:
    """All (name, tensor) pairs of a folder's safetensors files, sharded or not."""
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        files = sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
    else:
        files = [folder / f"{stem}.safetensors"]
    for file in files:
        if not file.exists():
            raise CheckpointError(
                f"weights {file.name} not found in {folder}: only safetensors checkpoints are read"
            )
        with safe_open(str(file), framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - not a mapping
                yield name, handle.get_tensor(name)


def stored_numbers(folder: Path) -> int:
    """How many numbers the weights of a folder are; nothing but the files' headers is read."""
    found = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as handle:
            found += sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118 - not a mapping
    return found


def weights_hash(folder: Path, stem: str = "model") -> str:
    """sha256 over the safetensors files of a folder, first 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob(f"{stem}*.safetensors")):
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _harmless(name: str, spec: ModelSpec) -> bool:
    """Stored tables that every model computes anew, and a head that is the embedding's own weight."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tie_embeddings and name == "lm_head.weight")


class _Unfilled(TorchFunctionMode):
    """Modules built under it draw no first weights: on a meta tensor that does nothing but import torch's
    tracer (1.6 s).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def unfilled(spec: ModelSpec) -> Transformer:
    """The model without weights: its parameters are on the meta device."""
    with torch.device("meta"), _Unfilled():
        return Transformer(spec)


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device, spec: ModelSpec | None = None
) -> Transformer:
    """Build the model of ``folder`` (as ``spec`` says, else its configuration) and fill every parameter.

    CheckpointError names what is missing.
    """
    spec = read_spec(folder) if spec is None else spec
    family = open_family(spec.family)
    model = unfilled(spec)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors(folder):
        ours = family.canonical_name(name)
        if ours not in wanted:
            unknown += [] if _harmless(ours, spec) else [name]
            continue
        if tuple(tensor.shape) != wanted[ours]:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, config.json implies {wanted[ours]}"
            )
        state[ours] = tensor.to(device, dtype)
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} of {len(wanted)} weights, first {missing[0]}")
    if unknown:
        text = (
            f"{folder} holds {len(unknown)} weight{'s' * (len(unknown) > 1)} that a model of type "
            f"{spec.family.capitalize()} does not have"
        )
        raise CheckpointError(
            f"{text}, first {min(unknown)}: its config.json names another family than its weights; change "
            "--model"
        )
    model.load_state_dict(state, strict=False, assign=True)
    if spec.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary.to_empty(device=device)
    return model.eval().requires_grad_(False)
