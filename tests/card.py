"""A second device where there is none: its tensors hold real values on the host, and meeting a host tensor is
an error, as on a GPU.

It goes by the name "meta", the only one whose every call PyTorch takes without hardware (a build without CUDA
refuses "cuda").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.model import device

CARD = torch.device("meta")
MOVES = {"_to_copy", "copy_", "_local_scalar_dense"}
INDEXES = {"index", "index_put", "index_put_"}


class CardGenerator(torch.Generator):
    """Random numbers of the device: a generator of the host that says it is the device's."""

    def __new__(cls, device: torch.device | str = "cpu") -> Any:
        on_card = torch.device(device).type == CARD.type
        return super().__new__(cls) if on_card else _GENERATOR(device)

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return CARD


_GENERATOR = torch.Generator


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

    def data_ptr(self) -> int:
        """Where the values are: tensors that share them have the same."""
        return self.held.data_ptr()

    def __reduce_ex__(self, proto: Any) -> Any:
        """Stored as the values, which is how a checkpoint of a GPU is read back where there is none."""
        return self.held.__reduce_ex__(proto)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def parts(value: Any) -> Iterator[Tensor]:
    """The tensors of arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from parts(part)


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Arguments or results with ``change`` done to every tensor; torch's own tree_map takes most of a
    decoding's time.
    """
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(mapped(change, part) for part in value) if isinstance(value, list | tuple) else value


def held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, OnCard) else tensor


def on_card(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, OnCard) else OnCard(tensor)


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the values; RuntimeError where a GPU would refuse the mixture of devices."""
    name = func.overloadpacket.__name__
    flat = list(parts((args, list(kwargs.values()))))
    there = any(isinstance(part, OnCard) for part in flat)
    if unfilled := [part for part in flat if not isinstance(part, OnCard) and part.device == CARD]:
        raise RuntimeError(f"{name}: a tensor of {tuple(unfilled[0].shape)} was made past the stand-in")
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
    plain = {key: mapped(held, value) for key, value in kwargs.items()}
    if asked is not None:
        plain["device"] = torch.device("cpu")
    found = func(*mapped(held, args), **plain)
    if name.endswith("_") and not name.startswith("_") and args and isinstance(args[0], Tensor):
        return args[0]
    return mapped(on_card, found) if out else found


def _index(index: Any) -> Any:
    """An index whose lists are tensors of the host, as a GPU's are."""
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _same_device(name: str, random: torch.Generator, device: Any, args: Any) -> None:
    """RuntimeError for random numbers of one device that are asked for on another."""
    made = (
        any(isinstance(part, OnCard) for part in parts(args))
        if device is None
        else torch.device(device) == CARD
    )
    if made != isinstance(random, CardGenerator):
        raise RuntimeError(f"{name}: expected a generator of the tensor's device, but found {random.device}")


class _FromValues(TorchFunctionMode):
    """``torch.tensor`` and lists as an index are copied to their device where no dispatch mode sees it: made
    on the host, then moved.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func is torch.tensor
            and kwargs.get("device") is not None
            and torch.device(kwargs["device"]) == CARD
        ):
            return func(*args, **{**kwargs, "device": "cpu"}).to(CARD)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnCard):
            args = (args[0], _index(args[1]), *args[2:])
        if (random := kwargs.get("generator")) is not None:
            _same_device(func.__name__, random, kwargs.get("device"), args)
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
        self._stack.enter_context(mock.patch.object(torch, "Generator", CardGenerator))
        measured = (*device.MEASURED, CARD.type)  # no user may ask for it
        self._stack.enter_context(mock.patch.object(device, "MEASURED", measured))
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
