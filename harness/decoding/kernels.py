"""How attention is computed: by SDPA, by flash-attn's variable-length kernel, or by FlexAttention.

SDPA is the reference, runs everywhere and takes every mask. The others take rows end to end. flash and
compiled flex have not run on a GPU yet; tests hold flash's calls against a plain stand-in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from harness.decoding.attend import Packed, Segment
from harness.decoding.part import Part
from harness.decoding.sight import Sight
from harness.decoding.varlen import PAGE, Varlen, stretches
from harness.errors import UserError
from harness.model.transformer import Attend, attention

CHOICES = ("auto", "sdpa", "flash", "flex")
HALF = (torch.bfloat16, torch.float16)
AGREE = 2e-2
"""How far flash may lie from SDPA in half precision (absolute, inputs of unit variance) to be chosen."""


class AttentionError(UserError, ValueError):
    """An implementation of attention that cannot be had, or has no kernel for a mask; names the flag."""


class Implementation(Protocol):
    """``rectangles``: rows of one shape may share a rectangular batch. ``page``: least capacity of a
    store."""

    name: str
    rectangles: ClassVar[bool]
    page: ClassVar[int]

    def serving(self, parts: Sequence[Part]) -> Implementation:
        """What computes a pass of these rows. Raises AttentionError where there is no kernel for it."""
        ...

    def packed(self, segments: Sequence[Segment]) -> Attend:
        """Attention of rows that lie end to end."""
        ...


class Sdpa:
    """torch's scaled dot product attention."""

    name = "sdpa"
    rectangles: ClassVar[bool] = True
    page: ClassVar[int] = 1

    def serving(self, parts: Sequence[Part]) -> Implementation:
        return self

    def packed(self, segments: Sequence[Segment]) -> Attend:
        return Packed(segments, self)

    def see(self, sight: Sight) -> Tensor | None:
        return sight.dense()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return attention(query, key, value, mask)


class Flex:
    """FlexAttention. ``compiled``: as one kernel; else in plain steps, which is for checks.

    Its mask function looks up what harness.decoding.masks says of each query and key: one that computes it
    holds numbers of the row, and would be compiled anew for every prompt.
    """

    name = "flex"
    rectangles: ClassVar[bool] = False
    page: ClassVar[int] = 1

    def __init__(self, compiled: bool) -> None:
        from torch.nn.attention import flex_attention

        self._flex, self._compiled = flex_attention, compiled
        self._run: Any = flex_attention.flex_attention
        if compiled:
            self._run = torch.compile(self._run, dynamic=True)

    def serving(self, parts: Sequence[Part]) -> Implementation:
        return self

    def packed(self, segments: Sequence[Segment]) -> Attend:
        return Packed(segments, self)

    def see(self, sight: Sight) -> Any:
        table = sight.dense()
        if table is None:
            return None
        return self._flex.create_block_mask(
            lambda batch, head, query, key: table[query, key],
            None,
            None,
            *table.shape,
            device=str(table.device),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        grouped = query.shape[1] != key.shape[1]
        if self._compiled:
            return self._run(query, key, value, block_mask=mask, enable_gqa=grouped)
        with _untraced(self._flex):
            return self._run(query, key, value, block_mask=mask, enable_gqa=grouped)


@contextmanager
def _untraced(flex: Any) -> Iterator[None]:
    """Keep flex_attention from being traced: plain steps are computed as they stand."""
    name = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
    before = getattr(flex, name, False)
    setattr(flex, name, True)
    try:
        yield
    finally:
        setattr(flex, name, before)


class Flash:
    """flash-attn's ``flash_attn_varlen_func``: all rows in one call, keys read from the store in place.

    It has no mask but the end of a stretch of keys: block-causal passes become one sequence per block, and
    shadow rows or other masks go to ``fallback``, or are an AttentionError.
    """

    rectangles: ClassVar[bool] = False
    page: ClassVar[int] = PAGE

    def __init__(self, kernel: Callable[..., Any], fallback: Implementation | None = None) -> None:
        self.kernel, self.fallback = kernel, fallback
        self.name = "flash"

    def serving(self, parts: Sequence[Part]) -> Implementation:
        if all(stretches(part) is not None for part in parts):
            return self
        if self.fallback is None:
            raise AttentionError(
                "--attention flash: flash-attn has no kernel for this method's mask (shadow rows, or keys "
                "that are no stretch from the start): use --attention sdpa or flex"
            )
        return self.fallback

    def packed(self, segments: Sequence[Segment]) -> Attend:
        return Varlen(segments, self.kernel)


def flash_kernel() -> Callable[..., Any]:
    """flash-attn's function; AttentionError names the extra where it is not installed."""
    try:
        return importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, AttributeError) as error:
        raise AttentionError(
            f"--attention flash needs flash-attn ({error}): pip install 'dllm-bench[gpu]', or use "
            "--attention sdpa or flex"
        ) from None


def implementation(choice: str, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> Any:
    """What ``--attention`` names, on a device with activations of a dtype; AttentionError where it cannot
    be had. ``compiled``: flex as one kernel on a CPU too.
    """
    if choice not in CHOICES:
        raise AttentionError(f"--attention {choice} is unknown; use {', '.join(CHOICES)}")
    if choice == "auto":
        return _best(device, dtype)
    if choice == "flash":
        if device.type != "cuda" or dtype not in HALF:
            raise AttentionError(
                f"--attention flash runs on CUDA in bfloat16 or float16, not on {device.type} in "
                f"{str(dtype).removeprefix('torch.')}: use --attention sdpa or flex, or --device cuda "
                "--dtype bfloat16"
            )
        return Flash(flash_kernel())
    if choice == "flex":
        return Flex(compiled or device.type == "cuda")
    return Sdpa()


def _best(device: torch.device, dtype: torch.dtype) -> Implementation:
    """flash on a GPU where flash-attn is installed and gives what SDPA gives, SDPA for the masks that it
    lacks and everywhere else.
    """
    if device.type == "cuda" and dtype in HALF:
        try:
            kernel = flash_kernel()
            if _agrees(kernel, device, dtype):
                return Flash(kernel, Sdpa())
        except (AttentionError, RuntimeError):
            pass
    return Sdpa()


def _agrees(kernel: Callable[..., Any], device: torch.device, dtype: torch.dtype) -> bool:
    """One sequence of 3 queries and 5 keys in the first page of a store, grouped heads."""
    shapes = (3, 4, 64), (1, PAGE, 2, 64), (1, PAGE, 2, 64)
    query, key, value = (torch.randn(shape).to(device, dtype) for shape in shapes)
    ends = [torch.tensor([0, length], dtype=torch.int32, device=device) for length in (3, 5)]
    table = torch.zeros(1, 1, dtype=torch.int32, device=device)
    found = kernel(query, key, value, *ends, 3, 5, block_table=table)
    keys, values = (part[:, :5].transpose(1, 2) for part in (key, value))
    wanted = attention(query.transpose(0, 1)[None], keys, values)[0].transpose(0, 1)
    return bool((found - wanted).abs().max() < AGREE)


def choice_name(kernel: Implementation) -> str:
    """How plans name it: ``flash+sdpa`` where SDPA takes what flash cannot."""
    fallback = getattr(kernel, "fallback", None)
    return kernel.name if fallback is None else f"{kernel.name}+{fallback.name}"
