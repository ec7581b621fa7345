"""bfloat16 products where the processor has them, float32 where it would emulate them.

Without AMX or AVX512-BF16, torch 2.13 multiplies bfloat16 matrices 20 to 100 times slower than float32 ones
(docs/log.md).
"""

from __future__ import annotations

import platform
from functools import cache

import torch


@cache
def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_products() -> torch.autocast:
    """bfloat16 autocast on a CPU that has it, else a context that changes nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=native_bfloat16())


def product_dtype(device: torch.device) -> torch.dtype:
    """The fast type of matrix products whose precision does not matter."""
    return torch.bfloat16 if device.type != "cpu" or native_bfloat16() else torch.float32
