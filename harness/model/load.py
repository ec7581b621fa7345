"""Checkpoints and adapters: real layouts in, one Transformer out.

Sharded or single-file safetensors, with the names of their family (harness.model.family), plus PEFT LoRA
adapters. Published remote code is never executed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.model.recognise import open_family, read_spec
from harness.model.spec import FETCH, CheckpointError, ModelSpec
from harness.model.transformer import Transformer
from harness.records.outside import brief, read_json, reason
from harness.records.printable import printable

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


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """The safetensors files that are loaded from a folder, sorted: those that its index names, else the one
    called ``stem``.

    CheckpointError for an index that is none, names a file outside of the folder, or one that is not there.
    """
    index = folder / f"{stem}.safetensors.index.json"
    names = {f"{stem}.safetensors"}
    if index.exists():
        table = read_json(index, CheckpointError, advice=FETCH).get("weight_map")
        if (
            not isinstance(table, dict)
            or not table
            or not all(isinstance(one, str) for one in table.values())
        ):
            raise CheckpointError(f"{index} has no weight_map from weights to files: {FETCH}")
        names = set(table.values())
    for name in sorted(names):
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise CheckpointError(
                f"{index} names {brief(name)}, which lies outside of {folder}: weights stand beside "
                "their index"
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"weights {printable(name)} not found in {folder}: only safetensors checkpoints are read"
            )
    return sorted(folder / name for name in names)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file; CheckpointError for a broken one, also while it is read."""
    try:
        with safe_open(str(file), framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as fault:
        if isinstance(fault, CheckpointError):
            raise
        raise CheckpointError(f"{file} is no whole safetensors file ({reason(fault)}): {FETCH}") from None


def tensors(folder: Path, stem: str = "model") -> Iterator[tuple[str, Tensor]]:
    """All (name, tensor) pairs of a folder's safetensors files, sharded or not. CheckpointError for a broken
    file, and for a name that two files have.
    """
    seen: dict[str, Path] = {}
    for file in weight_files(folder, stem):
        with _opened(file) as handle:
            for name in handle.keys():  # noqa: SIM118 - not a mapping
                if name in seen:
                    raise CheckpointError(
                        f"{printable(name)} stands in {seen[name].name} and in {file.name} of {folder}: "
                        "remove one"
                    )
                seen[name] = file
                yield name, handle.get_tensor(name)


def stored_numbers(folder: Path) -> int:
    """How many numbers the weights of a folder are; nothing but the files' headers is read."""
    found = 0
    for file in weight_files(folder):
        with _opened(file) as handle:
            found += sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118 - not a mapping
    return found


def weights_hash(folder: Path, stem: str = "model") -> str:
    """sha256 over the safetensors files that are loaded from a folder, first 16 hex digits."""
    digest = hashlib.sha256()
    for file in weight_files(folder, stem):
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; the least and the largest tell, since any NaN is both."""
    return not tensor.numel() or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _harmless(name: str, spec: ModelSpec) -> bool:
    """Stored tables that every model computes anew, and a head that is the embedding's own weight."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tie_embeddings and name == "lm_head.weight")


def _usable(name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype, folder: Path) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{name} in {folder} is stored as {str(tensor.dtype).removeprefix('torch.')}: quantised weights "
            "are not read; change --model"
        )
    found = tensor.to(device, dtype)
    if finite(found):
        return found
    if finite(tensor.float()):
        raise CheckpointError(
            f"{name} in {folder} has numbers beyond {str(dtype).removeprefix('torch.')}: change --dtype"
        )
    raise CheckpointError(f"{name} in {folder} has numbers that are not finite (NaN or infinite): {FETCH}")


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


def fill(model: Transformer, state: dict[str, Tensor], device: torch.device) -> None:
    """Give an unfilled model its weights, which are on ``device``, and make it ready to infer."""
    model.load_state_dict(state, strict=False, assign=True)
    if model.spec.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary.clear(device)
    model.eval().requires_grad_(False)


def _check_rotary(model: Transformer, folder: Path) -> None:
    """CheckpointError for rope_scaling that makes no frequencies."""
    scaling = model.spec.rope_scaling
    if scaling is None:
        return
    try:
        frequencies, scale = model.model.rotary._frequencies()
        if (
            not finite(frequencies)
            or not math.isfinite(scale)
            or frequencies.shape != (model.spec.head_dim // 2,)
        ):
            raise ValueError("no finite frequency per pair of a head's dimensions")
    except Exception as fault:  # transformers' own functions raise anything
        raise CheckpointError(
            f"rope_scaling {brief(scaling)} in {folder / 'config.json'} cannot be used ({reason(fault)}): "
            f"{FETCH}"
        ) from None


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
        state[ours] = _usable(name, tensor, device, dtype, folder)
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
    fill(model, state, device)
    _check_rotary(model, folder)
    return model
