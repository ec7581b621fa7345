"""What crosses the glass: requests, writes and tensors, as JSON of a fixed shape and bytes in shared memory.
Used on both sides.

Nothing that comes from the jail is believed: a request is rebuilt from integers within the row's bounds,
known masks and finite numbers, and whatever else is in a message is a ``BrokenMessage``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import torch

from harness.decoding.candidates import Score, Want
from harness.decoding.forward import Forward, Shadow, Soft, positions_of, spans_of
from harness.decoding.masks import FULL, Blind, BlockCausal, Causal, Full, LeaveOneOut, Mask
from harness.decoding.rules import CanvasError

MASKS: dict[str, Callable[..., Mask]] = {
    "full": Full,
    "causal": Causal,
    "leave_one_out": LeaveOneOut,
    "blind": Blind,
    "block_causal": BlockCausal,
}
WRITES = {"commit": 3, "revise": 3, "close": 1, "divide": 1, "abandon": 1, "hold": 1}
"""What a decoder may do to its row, and with how many values."""
MOST_BYTES = 16 << 20
"""Of one message; a canvas of 8,192 tokens with all that can be said of it is far below."""
MOST_COPIES = 16
"""Shadow rows of one request, in lengths of its row: a method that drafts lays whole canvases beside it."""
_LENGTH = struct.Struct(">I")
_PLAIN = Forward(feed=(0, 1), at=())


class BrokenMessage(CanvasError):
    """A message that no decoder's requests make: the process behind the glass does not keep to the
    protocol.
    """


class CannotCross(ValueError):
    """Something of a request that only means something in one process."""


def send(link: socket.socket, message: Any) -> None:
    """One message; OSError when the other side is gone."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    link.sendall(_LENGTH.pack(len(body)) + body)


def receive(link: socket.socket) -> Any:
    """The next message, None at the end. BrokenMessage for one that is too long or no JSON, TimeoutError as
    the socket is set.
    """
    data = b""
    while len(data) < 4:
        more = link.recv(1 << 16)
        if not more:
            return None
        data += more
    (length,) = _LENGTH.unpack_from(data)
    if length > MOST_BYTES:
        raise BrokenMessage(f"a message of {length} bytes")
    parts, have = [data[4:]], len(data) - 4
    while have < length:
        parts.append(link.recv(min(length - have, 1 << 20)))
        if not parts[-1]:
            return None
        have += len(parts[-1])
    if have > length:
        raise BrokenMessage("more than one message at a time")
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise BrokenMessage(f"a message that is no JSON: {error}"[:200]) from None


def request_out(request: Forward) -> dict[str, Any]:
    """A request as plain data, defaults left out. CannotCross for a mask function or a policy inside the
    layers.
    """
    if request.layers is not None:
        raise CannotCross(
            "a policy inside the layers (cache=dllm_cache, cache=d2cache) needs the model's own process: "
            "pass --no-isolate"
        )
    data: dict[str, Any] = {"feed": spans_of(positions_of(request.feed)), "at": _run_or_list(request.at)}
    for name in ("keep", "see"):
        if (places := getattr(request, name)) is not None:
            data[name] = spans_of(positions_of(places))
    for name in ("fresh", "cached", "trial", "adopt", "level"):
        if (value := getattr(request, name)) != getattr(_PLAIN, name):
            data[name] = value
    if request.mask != FULL:
        data["mask"] = _mask_out(request.mask)
    if request.assume:
        data["assume"] = list(request.assume.items())
    if request.soft:
        data["soft"] = [
            [place, mixture.ids.tolist(), mixture.weights.tolist()] for place, mixture in request.soft.items()
        ]
    if (shadow := request.shadow) is not None:
        data["shadow"] = [
            list(shadow.at),
            None if shadow.ids is None else list(shadow.ids),
            _mask_out(shadow.mask),
            shadow.groups,
        ]
    if request.want is not None:
        data["want"] = [request.want.score, request.want.double]
    return data


def _run_or_list(at: Sequence[int]) -> Any:
    if isinstance(at, range) and at.step == 1:
        return [[at.start, max(at.start, at.stop)]]
    return list(at)


def _mask_out(mask: Mask) -> list[Any]:
    for name, kind in MASKS.items():
        if type(mask) is kind:
            return [name, *dataclasses.astuple(mask)]  # pyright: ignore[reportArgumentType]
    raise CannotCross(
        f"the mask {type(mask).__name__} is a function of this method; only {', '.join(MASKS)} can cross: "
        "pass --no-isolate"
    )


class Bounds:
    """What a row's requests may name: ``length`` positions, ``vocab`` ids."""

    def __init__(self, length: int, vocab: int) -> None:
        self.length, self.vocab = length, vocab

    def request(self, data: Any) -> Forward:
        """The request that ``data`` stands for; BrokenMessage unless all of it is in bounds."""
        if not isinstance(data, dict) or not {"feed", "at"} <= data.keys():
            raise BrokenMessage("a request without feed and at")
        if unknown := data.keys() - _FIELDS.keys() - {"at"}:
            raise BrokenMessage(f"a request with {sorted(unknown)[0][:40]}")
        try:
            values = {name: _FIELDS[name](self, value) for name, value in data.items() if name != "at"}
            shadow = values.get("shadow")
            return Forward(at=self.at(data["at"], 0 if shadow is None else len(shadow.at)), **values)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise BrokenMessage(f"a request that is none: {error}"[:200]) from None

    def whole(self, value: Any, top: int, low: int = 0) -> int:
        if type(value) is not int or not low <= value < top:
            raise ValueError(f"{str(value)[:40]} is no integer in [{low}, {top})")
        return value

    def wholes(self, values: Any, top: int, most: int) -> list[int]:
        if type(values) is not list or len(values) > most:
            raise ValueError(f"no list of at most {most} integers")
        return [self.whole(value, top) for value in values]

    def spans(self, data: Any) -> Any:
        if type(data) is not list or len(data) > self.length:
            raise ValueError("positions are no list of spans")
        spans = [
            (self.whole(start, self.length), self.whole(stop, self.length + 1, 1)) for start, stop in data
        ]
        if any(start >= stop for start, stop in spans) or any(
            after[0] <= before[1] for before, after in itertools.pairwise(spans)
        ):
            raise ValueError("spans overlap, touch or are empty")
        return spans[0] if len(spans) == 1 else spans

    def at(self, data: Any, shadows: int) -> Sequence[int]:
        top = self.length + shadows  # shadow rows are asked for behind the row
        if type(data) is list and len(data) == 1 and type(data[0]) is list:
            start, stop = data[0]
            return range(self.whole(start, top + 1), self.whole(stop, top + 1))
        return self.wholes(data, top, top)

    def flag(self, data: Any) -> bool:
        if type(data) is not bool:
            raise ValueError("no truth value")
        return data

    def mask(self, data: Any) -> Mask:
        name, *numbers = data
        if name == "block_causal":
            size, origin = numbers
            return BlockCausal(
                self.whole(size, 1 << 31, 1), None if origin is None else self.whole(origin, 1 << 31)
            )
        if numbers:
            raise ValueError("a mask with parameters that it does not have")
        return MASKS[name]()

    def assume(self, data: Any) -> dict[int, int]:
        if type(data) is not list or len(data) > self.length:
            raise ValueError("too many assumed tokens")
        return {self.whole(place, self.length): self.whole(token, self.vocab) for place, token in data}

    def soft(self, data: Any) -> dict[int, Soft]:
        if type(data) is not list or len(data) > self.length:
            raise ValueError("too many mixtures")
        found = {}
        for place, ids, weights in data:
            numbers = self.numbers(weights, self.vocab)
            chosen = self.wholes(ids, self.vocab, self.vocab)
            if len(numbers) != len(chosen):
                raise ValueError("a mixture of ids and weights of different number")
            found[self.whole(place, self.length)] = Soft(
                torch.tensor(chosen, dtype=torch.long), torch.tensor(numbers, dtype=torch.float64)
            )
        return found

    def numbers(self, values: Any, most: int) -> list[float]:
        if type(values) is not list or len(values) > most:
            raise ValueError(f"no list of at most {most} numbers")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError("a number that is not finite")
        return [float(value) for value in values]

    def shadow(self, data: Any) -> Shadow:
        at, ids, mask, groups = data
        places = self.wholes(at, self.length, MOST_COPIES * self.length)
        held = None if ids is None else self.wholes(ids, self.vocab, len(places))
        if held is not None and len(held) != len(places):
            raise ValueError("shadow rows with another number of ids")
        return Shadow(places, held, self.mask(mask), self.whole(groups, self.length + 1, 1))

    def want(self, data: Any) -> Want:
        score, double = data
        if score not in get_args(Score):
            raise ValueError("an unknown score")
        return Want(cast("Score", score), self.flag(double))

    def adopt(self, data: Any) -> int | None:
        return self.whole(data, 1 << 20)

    def level(self, data: Any) -> int | None:
        return self.whole(data, self.vocab)


_FIELDS: dict[str, Callable[[Bounds, Any], Any]] = {
    "feed": Bounds.spans,
    "keep": Bounds.spans,
    "see": Bounds.spans,
    "mask": Bounds.mask,
    "assume": Bounds.assume,
    "soft": Bounds.soft,
    "shadow": Bounds.shadow,
    "want": Bounds.want,
    "adopt": Bounds.adopt,
    "level": Bounds.level,
    **dict.fromkeys(("fresh", "cached", "trial"), Bounds.flag),
}
