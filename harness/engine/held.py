"""Weights that several methods may compute with: one copy of each, loaded at first use, given back when they
have to make room.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

from harness.decoding.backbone import Backbone
from harness.model import ModelSpec
from harness.model.quantize import stored


class Held:
    """One set of weights; ``size`` is what it takes in memory, bytes. ``load_s``: seconds of the last
    load. ``scheme``: how the blocks' weights are kept in fewer bits than ``dtype`` (harness.model.quantize).
    ``attention``: how it is computed (harness.decoding.kernels); ``compiled``: layers compiled
    (harness.model.compiled).
    """

    def __init__(
        self,
        open_: Callable[[], Backbone],
        spec: ModelSpec,
        dtype: torch.dtype,
        device: torch.device,
        size: Callable[[], int],
        scheme: str | None = None,
        attention: str = "sdpa",
        compiled: bool = False,
    ) -> None:
        self._open, self._size = open_, size
        self.attention, self.compiled = attention, compiled
        self._spec, self.dtype, self.device, self.scheme = spec, dtype, device, scheme
        self._backbone: Backbone | None = None
        self.load_s = 0.0

    @classmethod
    def ready(cls, backbone: Backbone) -> Held:
        """Weights that are there already and stay."""
        held = cls(
            lambda: backbone, backbone.spec, backbone.dtype, backbone.device, lambda: weights_bytes(backbone)
        )
        held._backbone = backbone
        return held

    @property
    def spec(self) -> ModelSpec:
        return self._spec if self._backbone is None else self._backbone.spec

    @property
    def precision(self) -> str:
        """What records say of the numbers: int8, int4, or the dtype of everything."""
        return self.scheme or str(self.dtype).removeprefix("torch.")

    @property
    def in_memory(self) -> bool:
        return self._backbone is not None

    @property
    def size(self) -> int:
        return self._size() if self._backbone is None else weights_bytes(self._backbone)

    def get(self) -> Backbone:
        """The model, loaded if it is not there. Raises CheckpointError as loading does."""
        if self._backbone is None:
            started = time.perf_counter()
            self._backbone = self._open()
            self.load_s = time.perf_counter() - started
        return self._backbone

    def release(self) -> None:
        """Forget the weights; the next ``get`` loads them again."""
        self._backbone = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def weights_bytes(backbone: Backbone) -> int:
    """Bytes of parameters and buffers, each storage once."""
    held = (*backbone._model.parameters(), *backbone._model.buffers())
    parts = [part for tensor in held for part in stored(tensor)]
    return sum({part.data_ptr(): part.numel() * part.element_size() for part in parts}.values())
