"""Before a download: what a hub model's run will fetch, whether it fits this machine, about how long it
takes, what the method lacks.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from harness.measuring.roofline import hardware
from harness.model.catalog import folder_of, location, lookup
from harness.model.checkpoint import spec_of
from harness.model.device import pick_device, pick_dtype
from harness.model.load import PATTERNS
from harness.model.spec import CheckpointError, ModelSpec
from harness.records.printable import gigabytes

_SMALL = ("config.json", "generation_config.json", "tokenizer_config.json", "added_tokens.json")


@dataclass(frozen=True)
class Fetch:
    """One repository of the hub: bytes of all files that will be fetched, and of its weights."""

    name: str
    files: int
    size: int
    weights: int


def on_hub(name: str) -> bool:
    """Whether a name is a hub id that is neither a local folder nor wholly in the hub's cache."""
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).expanduser().is_dir():
        return False
    from huggingface_hub import try_to_load_from_cache

    return not any(
        isinstance(try_to_load_from_cache(name, file), str)
        for file in ("model.safetensors", "model.safetensors.index.json")
    )


def fetch_of(name: str) -> Fetch | None:
    """What the hub lists under ``name``; None where it cannot be asked (fetching then says why)."""
    from huggingface_hub import HfApi

    try:
        listed = HfApi().model_info(name, files_metadata=True).siblings or []
    except Exception:
        return None
    wanted = [
        (file.rfilename, file.size or 0)
        for file in listed
        if any(fnmatch.fnmatch(file.rfilename, one) for one in PATTERNS)
    ]
    weights = sum(size for file, size in wanted if file.endswith(".safetensors"))
    return Fetch(name, len(wanted), sum(size for _, size in wanted), weights)


def hub_spec(name: str) -> ModelSpec:
    """The model's spec from its configuration files alone (some kilobytes). Raises CheckpointError for a
    family that is refused.
    """
    from huggingface_hub import snapshot_download

    return spec_of(name, Path(snapshot_download(name, allow_patterns=list(_SMALL))))


def lacks(name: str, spec: ModelSpec, requires: Iterable[str], adapter: str | None = None) -> list[str]:
    """What a method requires and the model lacks, in words; empty: nothing."""
    companions, found = lookup(name).companions, []
    for need in sorted(requires):
        if need == "mask_token" and spec.mask_id is None:
            found.append("a mask token (it is no diffusion model)")
        elif need == "blocks" and (spec.block_size is None):
            found.append("blocks (it attends to everything at once)")
        elif need == "uniform_state" and not spec.uniform_state:
            found.append("uniform-state noise (train one with bench train duo)")
        elif need == "causal_lm" and spec.diffusion and need not in companions:
            found.append("an autoregressive companion (pass --model CAUSAL_CHECKPOINT)")
        elif need.startswith("adapter:") and adapter is None and need not in companions:
            found.append(f"an {need.replace(':', ' ')} (pass --adapter FOLDER, or the bare checkpoint runs)")
    return found


def _companions(name: str, spec: ModelSpec, requires: Sequence[str], adapter: str | None) -> list[str]:
    """Further repositories that the run will fetch."""
    known = lookup(name).companions
    causal = (
        [known["causal_lm"]] if "causal_lm" in requires and spec.diffusion and "causal_lm" in known else []
    )
    needed = (
        [known[need] for need in requires if need.startswith("adapter:") and need in known]
        if adapter is None
        else []
    )
    own = [adapter] if adapter not in (None, "none") else []
    return [one for one in (folder_of(other) for other in [*causal, *needed, *own] if other) if on_hub(one)]


def preview(
    model: str,
    methods: Sequence[tuple[str, Iterable[str]]],
    *,
    tokens: int,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> list[str]:
    """Lines to print before a hub model is fetched; empty if nothing has to be, or the hub cannot be asked.

    ``methods``: (name, requires) of each; ``tokens``: canvas tokens of all documents and methods together.
    Raises CheckpointError if the model lacks what a method cannot do without, or belongs to a family that is
    refused.
    """
    name = location(model)
    fetch = fetch_of(name) if on_hub(name) else None
    if fetch is None:
        return []
    spec = hub_spec(name)
    missing = [
        (method, what) for method, requires in methods for what in lacks(model, spec, requires, adapter)
    ]
    if fatal := [f"{method} needs {what}" for method, what in missing if not what.startswith("an adapter")]:
        raise CheckpointError(
            f"{model} ({gigabytes(fetch.size)}, not fetched): {'; '.join(fatal)}: change --method or --model"
        )
    others = [
        other for _, requires in methods for other in _companions(model, spec, sorted(requires), adapter)
    ]
    further = [found for other in dict.fromkeys(others) if (found := fetch_of(other)) is not None]
    lines = [f"fetching {one.name}: {one.files} files, {gigabytes(one.size)}" for one in (fetch, *further)]
    lines += [_memory(fetch, spec, dtype, device), _time(fetch, spec, tokens, dtype, device)]
    return [*lines, *(f"{method} lacks {what}" for method, what in missing)]


def _held(fetch: Fetch, spec: ModelSpec, dtype: str, device: str | None) -> float:
    """Bytes of the weights in memory: the stored ones, in the precision of the run."""
    stored = {"float32": 4}.get(str(spec.dtype).removeprefix("torch."), 2)
    target = pick_device(device)
    return fetch.weights / stored * torch.empty(0, dtype=pick_dtype(dtype, target)).element_size()


def _memory(fetch: Fetch, spec: ModelSpec, dtype: str, device: str | None) -> str:
    target = pick_device(device)
    free = torch.cuda.mem_get_info(target)[0] if target.type == "cuda" else psutil.virtual_memory().available
    need, kind = _held(fetch, spec, dtype, device), str(pick_dtype(dtype, target)).removeprefix("torch.")
    text = f"weights in {kind} on {target}: {gigabytes(need)} of {gigabytes(free)} free"
    if need * 1.1 < free:
        return f"{text}: fits"
    half = need / 2 * 1.1 < free and kind == "float32"
    return f"{text}: DOES NOT FIT; " + (
        "--dtype bfloat16 would" if half else "choose a smaller --model or another --device"
    )


def _time(fetch: Fetch, spec: ModelSpec, tokens: int, dtype: str, device: str | None) -> str:
    """Reading all weights once per token is the least that one token per forward costs; decoders that write
    more take less.
    """
    target = pick_device(device)
    need = _held(fetch, spec, dtype, device)
    seconds = need / hardware(target, pick_dtype(dtype, target), need).bandwidth
    return (
        f"about {_hours(seconds * tokens)} at one token per forward ({seconds:.2g} s each, {tokens} "
        "tokens of canvas), less in parallel"
    )


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
