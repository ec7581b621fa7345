"""Watches a decoder from outside while it decodes: what it asked the model, what it wrote, what it opened.

Slower than a run by far, so only ``bench check`` uses it. Nothing here trusts what the decoder's process says
about itself: multiplications are counted by torch's dispatcher, files by the interpreter's audit events, and
writes by a journal that the canvas is compared with afterwards.
"""

from __future__ import annotations

import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.decoding.backbone import Backbone
from harness.decoding.cache import KVCache
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.row import Row

# A greedy decoder commits the likeliest token; anything outside the first ones was not decided by the model.
LIKELY = 20
_EVENTS = (
    "open",
    "sys._getframe",
    "sys._current_frames",
    "gc.get_objects",
    "gc.get_referrers",
    "gc.get_referents",
    "socket.connect",
)
_FRAME_ATTRIBUTES = ("tb_frame", "gi_frame", "gi_code")
_aten = torch.ops.aten


class Ears:
    """Files opened and stack frames looked at by code of one source file, while listening.

    The interpreter's audit hooks cannot be removed, so one is installed at first use and sleeps in between.
    """

    _installed: Ears | None = None

    def __init__(self) -> None:
        self.source: str | None = None
        self.heard: list[str] = []
        self._busy = False

    @classmethod
    @contextmanager
    def listen(cls, source: Path) -> Iterator[list[str]]:
        """Collect, as "event detail" texts, what code in ``source`` does itself or through the standard
        library.
        """
        if cls._installed is None:
            cls._installed = cls()
            sys.addaudithook(cls._installed._hear)
        ears = cls._installed
        ears.source, ears.heard = str(source.resolve()), []
        try:
            yield ears.heard
        finally:
            ears.source = None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.source is None or self._busy:
            return
        frame_read = event == "object.__getattr__" and arguments[1] in _FRAME_ATTRIBUTES
        if event not in _EVENTS and not frame_read:
            return
        detail = arguments[1] if frame_read else str(arguments[0]) if arguments and event == "open" else ""
        if detail.endswith((".py", ".pyc", ".so")):
            return  # an import
        self._busy = True
        try:
            if _caller() == self.source:
                self.heard.append(f"{event} {detail}".strip())
        finally:
            self._busy = False


_STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"]


def _caller() -> str | None:
    """File of the innermost frame that is neither this module nor the standard library."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_STANDARD_LIBRARY, "<frozen")) or "site-packages" in name:
            return str(Path(name))
        frame = frame.f_back
    return None


class Multiplications(TorchDispatchMode):
    """Multiply-adds of linear layers shaped like the model's body, whoever runs them on whatever copy of the
    weights.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        body = [m.weight for m in backbone._model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
        self.shapes = {tuple(weight.shape) for weight in body}
        self.head = backbone._model.lm_head.weight.data_ptr()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        weight, inputs = None, None
        if func is _aten.linear.default:
            inputs, weight = args[0], args[1]
        elif func is _aten.mm.default:
            inputs, weight = args[0], args[1].t()
        elif func is _aten.addmm.default:
            inputs, weight = args[1], args[2].t()
        if (
            weight is not None
            and inputs is not None
            and tuple(weight.shape) in self.shapes
            and weight.data_ptr() != self.head
        ):
            self.total += inputs.numel() * weight.shape[0]
        return func(*args, **(kwargs or {}))


class WatchedBackbone(Backbone):
    """The same model; remembers what each row was shown, and compares the canvas with what was committed
    before each pass.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone._model, backbone.device, backbone.dtype)
        self.reset([])

    def reset(self, prompts: Sequence[Sequence[int]]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.passes: dict[int, int] = defaultdict(int)
        self.likely: dict[tuple[int, int], set[int]] = defaultdict(set)
        self.faults: list[str] = []

    def forward_rows(
        self, canvas: Canvas, requests: Mapping[int, Forward], cache: KVCache | None = None
    ) -> dict[int, Tensor]:
        for index in requests:
            self._compare(canvas, index)
        logits = super().forward_rows(canvas, requests, cache)
        for index, request in requests.items():
            self.passes[index] += 1
            if len(request.at):
                best = logits[index].topk(min(LIKELY + 1, logits[index].shape[-1]), dim=-1).indices.tolist()
                places, length = (
                    request.shadow.at if request.shadow is not None else (),
                    canvas.rows[index].length,
                )
                for position, ids in zip(request.at, best, strict=True):
                    self.likely[index, places[position - length] if position >= length else position].update(
                        ids
                    )
        return logits

    def _compare(self, canvas: Canvas, index: int) -> None:
        row, ids = canvas.rows[index], canvas.ids[index].tolist()
        prompt = self.prompts[index]
        if ids[: len(prompt)] != prompt or row.prompt != prompt:
            self.faults.append(f"prompt of row {index} differs before forward {self.passes[index]}")
        if ids[len(prompt) : row.length] != [
            row.token(position) for position in range(len(prompt), row.length)
        ]:
            self.faults.append(
                f"canvas.ids of row {index} holds ids that were not committed before forward "
                f"{self.passes[index]}"
            )


class Journal:
    """Every write of a canvas' rows as it happened: position -> (id, step), and writes that came past commit
    and revise.
    """

    def __init__(self, backbone: WatchedBackbone) -> None:
        self.backbone = backbone
        self.final: dict[tuple[int, int], tuple[int, int]] = {}
        self.past: list[str] = []
        self.guesses: dict[tuple[int, int], str] = {}
        self.writes = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Wrap ``Row``'s ways of writing for the duration of one decode call."""
        originals: dict[str, Callable[..., None]] = {
            name: getattr(Row, name) for name in ("commit", "revise", "_take_back", "_write")
        }
        depth = 0

        def door(name: str) -> Callable[..., None]:
            def through(row: Row, at: Sequence[int], ids: Any, confidence: Any = None) -> None:
                nonlocal depth
                depth += 1
                try:
                    originals[name](row, at, ids, confidence)
                finally:
                    depth -= 1

            return through

        def write(row: Row, at: Sequence[int], ids: Any, confidence: Any) -> None:
            originals["_write"](row, at, ids, confidence)
            self._note(row, list(at), depth > 0)

        def take_back(row: Row, at: Sequence[int]) -> None:
            originals["_take_back"](row, at)
            self.past += [
                f"row {row.index} position {position} was taken back past revise"
                for position in at
                if depth == 0
            ]
            for position in at:
                self.final.pop((row.index, position), None)
                self.guesses.pop((row.index, position), None)

        with ExitStack() as stack:
            for name, replacement in {
                "commit": door("commit"),
                "revise": door("revise"),
                "_take_back": take_back,
                "_write": write,
            }.items():
                setattr(Row, name, replacement)
                stack.callback(setattr, Row, name, originals[name])
            yield

    def _note(self, row: Row, at: list[int], allowed: bool) -> None:
        step = max(self.backbone.passes[row.index] - 1, 0)
        for position in at:
            token = row.token(position)
            self.writes += 1
            self.final[row.index, position] = (token, step)
            if not allowed:
                self.past.append(f"row {row.index} position {position} was written past commit")
            likely = self.backbone.likely.get((row.index, position))
            self.guesses.pop((row.index, position), None)
            # End-of-text behind an end-of-text is no part of the answer.
            padding = (
                row.eos_position is not None
                and row.eos_position < position
                and row.ends_answer(position, token)
            )
            if not padding and (likely is None or token not in likely):
                why = (
                    f"id {token} is not among the {LIKELY} likeliest"
                    if likely
                    else "its logits were never asked for"
                )
                self.guesses[row.index, position] = f"row {row.index} position {position}: {why}"

    def differences(self, canvas: Canvas) -> list[str]:
        """Where the canvas' rows hold another id or step than the journal."""
        found = []
        for row in canvas.rows:
            for slot, (token, step) in enumerate(zip(row.output, row.step_map, strict=True)):
                position = row.prompt_length + slot
                known = self.final.get((row.index, position), (row.fill_id, -1))
                if known != (token, step):
                    found.append(
                        f"row {row.index} position {position}: id {token} of forward {step}, written was "
                        f"{known[0]} by {known[1]}"
                    )
        return found


class Witness:
    """A decoder under observation: decodes like the original and keeps what was seen of the last call."""

    def __init__(self, decoder: Any, source: Path | None) -> None:
        self.decoder, self.source = decoder, source
        self.name, self.Config, self.requires = decoder.name, decoder.Config, decoder.requires
        self.summary = getattr(decoder, "summary", "")
        self.journal: Journal | None = None
        self.canvas: Canvas | None = None
        self.heard: list[str] = []
        self.multiplied: tuple[int, int] | None = None

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        """Run the decoder on ``canvas``; ``backbone`` must be a WatchedBackbone."""
        assert isinstance(backbone, WatchedBackbone)
        backbone.reset([row.prompt for row in canvas.rows])
        journal, single = Journal(backbone), len(canvas.rows) == 1
        self.journal, self.canvas = journal, canvas
        with ExitStack() as stack:
            heard = stack.enter_context(Ears.listen(self.source)) if self.source is not None else []
            stack.enter_context(journal.open())
            counted = stack.enter_context(Multiplications(backbone)) if single else None
            try:
                self.decoder.decode(backbone, canvas, config)
            finally:
                self.heard += heard
        if counted is not None:
            self.multiplied = (counted.total, canvas.meter.rows[0].products)
