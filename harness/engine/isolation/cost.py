"""The cost of glass: seconds per request and per answer with an empty model, behind the glass and in this
process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from harness.decoding.backbone import Backbone
from harness.decoding.candidates import Candidates
from harness.decoding.canvas import Canvas
from harness.decoding.decoder import Program, RowDecoder
from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.engine.isolation.decoder import IsolatedDecoder
from harness.model.spec import ModelSpec
from harness.records.schema import Sample
from harness.sandbox import backends, launch

REQUESTS, WARM, POSITIONS = 100, 20, 32


class Echo(RowDecoder):
    """Asks for candidates (or logits) at the first positions and does nothing with them."""

    name = "echo"
    summary = "requests and nothing else"

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        for _ in range(config.top_k):
            yield Forward(feed=(0, row.length), at=range(min(POSITIONS, row.length)))


ECHO = Echo()


class Empty:
    """A model that answers at once."""

    def __init__(self, spec: ModelSpec, answer: Tensor | Candidates) -> None:
        self.spec, self.answer = spec, answer

    def answer_rows(
        self, canvas: Canvas, requests: Mapping[int, Forward], cache: object = None
    ) -> dict[int, Tensor | Candidates]:
        return dict.fromkeys(requests, self.answer)


@dataclass(frozen=True)
class Cost:
    """Seconds per request of one row above those in one process, for the candidates, and for logits of this
    vocabulary, at 32 positions; and per answer, what its first requests and its end cost besides.
    """

    candidates_s: float
    logits_s: float
    answer_s: float
    vocab_size: int


def measure(decoder: IsolatedDecoder, spec: ModelSpec) -> Cost:
    """The cost of one request now, on this machine, behind the same glass as ``decoder``."""
    echo = IsolatedDecoder(decoder.glass, {"name": "echo", "entry": f"{__name__}:ECHO"})
    ids, probability = torch.zeros(POSITIONS, dtype=torch.long), torch.zeros(POSITIONS)
    found, once = [], []
    for answer in (Candidates(ids, probability, probability), torch.zeros(POSITIONS, spec.vocab_size)):
        backbone = cast("Backbone", Empty(spec, answer))
        inside, outside = (_seconds(one, backbone) for one in (echo, ECHO))
        per_request = max(inside[1] - outside[1], 0.0)
        found.append(per_request)
        once.append(max(inside[0] - outside[0] - WARM * per_request, 0.0))
    return Cost(found[0], found[1], max(once), spec.vocab_size)


def _seconds(decoder: Any, backbone: Backbone) -> tuple[float, float]:
    """Of a call with WARM requests, and per request: the best of three calls each."""
    best = []
    for count in (WARM, WARM + REQUESTS):
        config, times = decoder.Config(top_k=count), []
        for _ in range(3):
            canvas = Canvas(
                [[0] * POSITIONS],
                POSITIONS,
                vocab_size=backbone.spec.vocab_size,
                mask_id=None,
                eos_ids=(),
                stop_rule="reference",
            )
            if isinstance(decoder, IsolatedDecoder):
                with decoder.ready(backbone, canvas, config):
                    times.append(_timed(decoder, backbone, canvas, config))
            else:
                times.append(_timed(decoder, backbone, canvas, config))
        best.append(min(times))
    return best[0], (best[1] - best[0]) / REQUESTS


def _timed(decoder: Any, backbone: Backbone, canvas: Canvas, config: Any) -> float:
    started = time.perf_counter()
    decoder.decode(backbone, canvas, config)
    return time.perf_counter() - started


def record(decoder: Any, spec: ModelSpec) -> dict[str, Any] | None:
    """What a run says of its glass: the jail, what that cannot do on this machine, and the cost per request;
    None in one process.
    """
    if not isinstance(decoder, IsolatedDecoder):
        return None
    backend = launch.probe()[0]
    return {"jail": backend, "weaknesses": backends.weaknesses(backend), **asdict(measure(decoder, spec))}


def overhead(told: Mapping[str, Any], samples: Sequence[Sample]) -> float | None:
    """Part of a run's decode time that its requests cost behind the glass, all of them taken for logits; None
    where nothing was timed.

    A row decoded with others shares a round's forward pass, but not the cost of its own request.
    """
    seconds = sum(sample.time_s or 0.0 for sample in samples)
    if seconds <= 0:
        return None
    requests = sum(sample.nfe or 0 for sample in samples)
    answers = sum(sample.time_s is not None for sample in samples)
    cost = max(told["candidates_s"], told["logits_s"]) * requests + told.get("answer_s", 0.0) * answers
    return cost / seconds
