"""The contract of a decoder, and the loop that joins one program per row into shared forward passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from harness.decoding.backbone import Backbone
from harness.decoding.cache import KVCache
from harness.decoding.candidates import Candidates
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model.spec import ModelSpec

Program = Generator[Forward, Any, None]
"""One row's decoding: yields requests, receives logits [len(at), vocab] or what the request wants instead,
commits tokens.
"""


@dataclass(frozen=True)
class SamplingConfig:
    """Settings that every decoder has."""

    max_new_tokens: Annotated[
        int | None, Field(gt=0, description="canvas length in tokens; default: the suite's or model's")
    ] = None
    temperature: Annotated[float, Field(ge=0.0, description="0 = greedy")] = 0.0
    top_p: Annotated[float | None, Field(gt=0.0, le=1.0, description="nucleus filter")] = None
    top_k: Annotated[int | None, Field(gt=0, description="keep the k likeliest tokens")] = None


@runtime_checkable
class Decoder(Protocol):
    """The interface the harness runs: see CONTRIBUTING.md for a complete example."""

    name: str
    summary: str
    Config: type[Any]
    requires: frozenset[str]

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        """Fill every row of the canvas."""
        ...


class RowDecoder:
    """Runs one ``decode_row`` program per row and joins their requests into shared forward passes.

    Each row sees exactly what it would see alone, so batch size never changes an answer. At most
    ``canvas.live`` programs run at once; one that ends makes room for the next row in the same round.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = SamplingConfig
    requires: ClassVar[frozenset[str]] = frozenset()

    def uses_cache(self, config: Any) -> bool:
        """Whether ``decode_row`` needs a KV cache."""
        return False

    def check(self, spec: ModelSpec, config: Any, new_tokens: int) -> None:
        """Raise SettingError for settings that do not suit this model or a canvas of ``new_tokens``; asked
        before any work.
        """

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        """Yield ``Forward`` requests for one row, receive logits [len(at), vocab], commit tokens."""
        raise NotImplementedError

    def decode(self, backbone: Backbone, canvas: Canvas, config: Any) -> None:
        cache: KVCache | None = backbone.new_cache(canvas) if self.uses_cache(config) else None
        waiting, programs = deque(canvas.rows), dict[int, Program]()
        requests: dict[int, Forward] = {}
        while waiting or requests:
            while waiting and len(requests) < canvas.live:
                row = waiting.popleft()
                canvas.admit(row.index)
                if cache is not None:
                    cache.admit(row.index)
                programs[row.index] = self.decode_row(row, backbone.spec, config)
                self._advance(requests, programs, None, row, cache)
            if requests:
                found = backbone.answer_rows(canvas, requests, cache)
                for index in list(requests):
                    self._advance(requests, programs, found[index], canvas.rows[index], cache)

    def _advance(
        self,
        requests: dict[int, Forward],
        programs: dict[int, Program],
        answer: Tensor | Candidates | None,
        row: Row,
        cache: KVCache | None,
    ) -> None:
        """One step of a row's program; a row that is done gives its place in the store back."""
        _advance(requests, row.index, programs[row.index], answer, row)
        if row.index not in requests:
            del programs[row.index]
            if cache is not None:
                cache.leave(row.index)


def _advance(
    requests: dict[int, Forward], index: int, program: Program, answer: Tensor | Candidates | None, row: Row
) -> None:
    requests.pop(index, None)
    try:
        request = next(program) if answer is None else program.send(answer)
    except StopIteration:
        return
    if row.stopped:
        program.close()
    else:
        requests[index] = request
