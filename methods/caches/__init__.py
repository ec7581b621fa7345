"""Cache policies by name, and the settings that choose and tune one. Every rule of methods.rules composes
with each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.decoding.decoder import SamplingConfig
from harness.decoding.policy import CachePolicy
from harness.model import ModelSpec
from methods.caches.d2cache import D2Cache
from methods.caches.dllm_cache import DLLMCache
from methods.caches.sparse import SparseCache
from methods.caches.window import WindowCache

CacheName = Literal["none", "prefix", "dual", "dllm_cache", "d2cache", "sparse"]

INSIDE = ("dllm_cache", "d2cache", "sparse")
"""Policies that work inside the layers."""

_SETTINGS = {
    "dllm_cache": ("kp", "kr", "rou"),
    "d2cache": ("rollout_p", "current_k", "cache_sigma", "inflate_w"),
    "sparse": ("keep_ratio", "kernel_size"),
}


@dataclass(frozen=True)
class CacheConfig(SamplingConfig):
    """Settings of every method that can reuse keys and values. Raises ValueError for a setting of a cache
    that is not chosen.
    """

    cache: Annotated[CacheName | None, Field(description="which keys and values are reused")] = "none"
    kp: Annotated[int, Field(gt=0, description="dllm_cache: steps between refreshes of the prompt")] = 50
    kr: Annotated[int, Field(gt=0, description="dllm_cache: steps between refreshes of the response")] = 2
    rou: Annotated[
        float, Field(ge=0.0, le=1.0, description="dllm_cache: share of response rows renewed in between")
    ] = 0.25
    rollout_p: Annotated[
        float, Field(ge=0.0, le=1.0, description="d2cache: attention mass of the other rows that are fed")
    ] = 0.1
    current_k: Annotated[int, Field(gt=0, description="d2cache: unwritten positions that are fed")] = 32
    cache_sigma: Annotated[
        float, Field(gt=0.0, description="d2cache: width of the certainty density, positions")
    ] = 10.0
    inflate_w: Annotated[
        int, Field(ge=0, description="d2cache: rows between fed rows at most this far apart are fed too")
    ] = 4
    keep_ratio: Annotated[
        float, Field(ge=0.0, le=1.0, description="sparse: share of the rows outside the block that stay")
    ] = 0.5
    kernel_size: Annotated[
        int, Field(gt=0, description="sparse: odd number of neighbours whose largest attention counts")
    ] = 3

    def __post_init__(self) -> None:
        for owner, names in _SETTINGS.items():
            for name in names:
                if self.cache != owner and getattr(self, name) != self.__dataclass_fields__[name].default:
                    raise ValueError(
                        f"{name} belongs to cache={owner}, not to cache={self.cache or 'none'}: change one "
                        "of them"
                    )
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size {self.kernel_size} must be odd: a row counts with as many neighbours on "
                "either side"
            )


def make_policy(config: Any, spec: ModelSpec) -> CachePolicy:
    """A fresh policy for one row of one call."""
    match config.cache:
        case "prefix" | "dual":
            return WindowCache(spec.shift, to_end=config.cache == "prefix")
        case "dllm_cache":
            return DLLMCache(config.kp, config.kr, config.rou)
        case "d2cache":
            return D2Cache(
                spec.shift, config.rollout_p, config.current_k, config.cache_sigma, config.inflate_w
            )
        case "sparse":
            return SparseCache(spec.shift, config.keep_ratio, config.kernel_size)
        case _:
            return CachePolicy()
