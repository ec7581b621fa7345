"""What a process behind the glass does before it says that it is ready: the steps of a row once over, with
nobody at the other end.

A forked process pays for every page of the library that it touches first (5 to 10 ms in its first two
requests on nano). That is the glass' price and not the decoder's: it is paid here, before the clock starts.
"""

from __future__ import annotations

import json
from typing import Any, cast, get_args

import torch
from torch import Tensor

from harness.decoding.candidates import Candidates, Score, Want, greedy
from harness.decoding.canvas import Canvas
from harness.decoding.decoder import Program, RowDecoder
from harness.decoding.forward import Forward, Soft
from harness.decoding.row import Row
from harness.engine.isolation.mirror import run_row
from harness.model.spec import ModelSpec

_PLACES = 4


class Rehearsal(RowDecoder):
    """Uses once what decoders use: candidates, logits of every score, a draw, a mixture, writes."""

    name = "rehearsal"
    summary = "the steps of a row, before the clock starts"

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        first = row.prompt_length
        at = list(range(first, min(first + _PLACES, row.length)))
        found: Candidates = yield Forward((0, row.length), at, want=Want())
        row.commit(at[:1], found.ids[:1], found.probability[:1])
        row.masked()
        logits: Tensor = yield Forward((0, row.length), at)
        for score in get_args(Score):
            for double in (False, True):
                found = greedy(logits, spec.mask_id, Want(score, double))
        order = found.score.sort(descending=True).indices.tolist()
        kept = logits.float().topk(min(2, logits.shape[-1]), -1)
        sums = kept.values.softmax(-1).cumsum(-1)
        torch.multinomial(sums, 1, generator=row.rng)
        torch.where(sums > 0.5, sums, -sums).argmax(-1).tolist()
        mixture = Soft(kept.indices[0], sums[0])
        yield Forward((0, row.length), at, soft={at[-1]: mixture})
        if len(at) > 1:
            row.commit([at[1]], found.ids[order[:1]], found.score[order[:1]].exp())


class _Nobody:
    """A link whose other end takes everything and answers with one number."""

    def __init__(self) -> None:
        self._answers = 0

    def sendall(self, data: bytes) -> None:
        json.loads(data[4:])

    def recv(self, size: int) -> bytes:
        self._answers += 1
        body = json.dumps([self._answers]).encode()
        return len(body).to_bytes(4, "big") + body


class _Noise:
    """Answers of the shapes that the judge would give."""

    def __init__(self, rows: int, vocab: int) -> None:
        self._logits = torch.arange(rows * vocab, dtype=torch.float32).remainder_(7.0).view(rows, vocab)

    def read(self, told: list[Any]) -> Tensor | Candidates:
        rows = len(self._logits)
        if told[0] == 1:
            return Candidates(torch.zeros(rows, dtype=torch.long), torch.zeros(rows), torch.zeros(rows))
        return self._logits.clone()


def rehearse(spec: ModelSpec, canvas: Canvas) -> None:
    """Run the rehearsal on a canvas of one row that nobody needs."""
    rows = min(_PLACES, canvas.rows[0].length - canvas.rows[0].prompt_length)
    noise = _Noise(rows, spec.vocab_size)
    run_row(cast("Any", _Nobody()), cast("Any", noise), Rehearsal(), spec, None, canvas)
