"""Uniform-state sampling as a decoder: every position may change at every step, the tail settles them all.

The noisy state lives in the forward passes (``Forward.assume``) and is written once, by the tail: until then
no token is final, so nothing may count as decoded and no early exit may apply. steps + 1 forward passes per
row, always. The first prompt token gives its place to the noise level in every pass (methods.duo.model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder
from methods.duo.model import level_token
from methods.duo.sampling import SAMPLING, Tail, draw, nucleus, settle, times, transition


@dataclass(frozen=True)
class Config:
    max_new_tokens: Annotated[
        int | None, Field(gt=0, description="canvas length in tokens; default: the suite's or model's")
    ] = None
    steps: Annotated[int, Field(gt=0, description="sampling steps; forward passes are one more")] = 8
    tail: Annotated[
        Tail,
        Field(
            description="last step: argmax of the prediction (greedy_code), of the posterior "
            "(greedy_posterior), or a draw"
        ),
    ] = "greedy_code"
    kappa: Annotated[
        float, Field(ge=0.0, le=1.0, description="1 = ancestral; less mixes in fresh draws (Psi-sampler)")
    ] = 1.0
    temperature: Annotated[
        float,
        Field(gt=0.0, description="of the prediction; 1 = the model's own (sampling is not greedy at any)"),
    ] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0, description="nucleus filter of the prediction")] = 1.0


class Duo(RowDecoder):
    name = "duo"
    summary = "uniform-state diffusion: fixed steps over the whole canvas, greedy or ancestral tail"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"uniform_state"})

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        at = range(row.prompt_length, row.length)
        vocab = spec.data_tokens
        z = torch.randint(vocab, (len(at),), generator=row.rng, device=row.rng.device)
        alpha = SAMPLING.alpha(times(config.steps)).to(z.device)
        for i in range(config.steps):
            logits = yield _forward(row, spec, z, alpha[i])
            x = _prediction(logits, vocab, config)
            z = draw(
                transition(x, z, alpha[i + 1].expand(z.shape), alpha[i].expand(z.shape), config.kappa),
                row.rng,
            )
        logits = yield _forward(row, spec, z, alpha[-1])
        x = _prediction(logits, vocab, config)
        ids = settle(x, z, alpha[-1].expand(z.shape), config.tail, row.rng)
        row.revise(at, ids, x.gather(-1, ids.unsqueeze(-1)).squeeze(-1))


def _prediction(logits: Tensor, vocab: int, config: Config) -> Tensor:
    return nucleus((logits[:, :vocab].double() / config.temperature).softmax(-1), config.top_p)


def _forward(row: Row, spec: ModelSpec, z: Tensor, alpha: Tensor) -> Forward:
    at = range(row.prompt_length, row.length)
    state = dict(zip(at, z.tolist(), strict=True))
    return Forward(feed=(0, row.length), at=at, assume=state, level=int(level_token(alpha, spec)))


METHOD = Duo()
