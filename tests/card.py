"""A second device where there is none: its tensors hold real values on the host, and meeting a host tensor is
an error, as on a GPU.

It goes by the name "meta", the only one whose every call PyTorch takes without hardware (a build without CUDA
refuses "cuda").
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("meta")
MOVES = {"_to_copy", "copy_", "_local_scalar_dense"}
INDEXES = {"index", "index_put", "index_put_"}


class OnCard(Tensor):
    """Values on the host under the name of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[OnCard], held: Tensor) -> OnCard:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CARD,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """The values on the host, as a GPU copies them."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the values; RuntimeError where a GPU would refuse the mixture of devices."""
    name = func.overloadpacket.__name__
    flat = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
    there = any(isinstance(part, OnCard) for part in flat)
    # A GPU takes numbers (tensors without dimensions) from the host, and host indices.
    strange = [
        part
        for part in flat
        if not isinstance(part, OnCard) and part.dim() and not (name in INDEXES and part.dtype == torch.long)
    ]
    if there and strange and name not in MOVES:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found the card and cpu"
        )
    asked = kwargs.get("device")
    out = there if asked is None else torch.device(asked).type == CARD.type
    if name == "_local_scalar_dense":
        out = False
    kwargs = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    plain = tree_map(lambda part: part.held if isinstance(part, OnCard) else part, (args, kwargs))
    found = func(*plain[0], **plain[1])
    if name.endswith("_") and not name.startswith("_") and args and isinstance(args[0], Tensor):
        return args[0]
    return tree_map(
        lambda part: (
            OnCard(part) if out and isinstance(part, Tensor) and not isinstance(part, OnCard) else part
        ),
        found,
    )


class _FromValues(TorchFunctionMode):
    """``torch.tensor`` copies to its device where no dispatch mode sees it: made on the host, then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func is torch.tensor
            and kwargs.get("device") is not None
            and torch.device(kwargs["device"]) == CARD
        ):
            return func(*args, **{**kwargs, "device": "cpu"}).to(CARD)
        return func(*args, **kwargs)


class _Plain:
    """What inference mode does inside the card."""

    held: Any

    def enter(self) -> None:
        self.held = torch.no_grad()
        self.held.__enter__()

    def exit(self, *raised: Any) -> None:
        self.held.__exit__(*raised)


class Card(TorchDispatchMode):
    """Inside it, ``device=CARD`` makes such tensors; inference mode, which keeps no versions of a wrapper's
    values, only does without gradients.
    """

    def __enter__(self) -> Any:
        self._stack = ExitStack()
        self._stack.enter_context(_FromValues())
        for name in ("__enter__", "__exit__"):
            self._stack.enter_context(
                mock.patch.object(torch.inference_mode, name, getattr(_Plain, name.strip("_")))
            )
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})
