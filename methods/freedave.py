"""FreeDave (arXiv 2510.00294): lossless speculation; several steps of one-token-per-step decoding are drafted
and verified in one pass.

From the logits of the last verified state the ``draft_steps`` surest tokens make a chain of drafts, each with
one token more. One pass computes the logits of all drafts. The first token is what the plain decoder writes
next anyway; each further one is kept if it is the surest token under the logits of the draft before it. The
logits of the last draft kept start the next round, so nothing is computed twice. Lossless: the answer is that
of ``vanilla`` with one token per step, up to exact ties and the last bit of a sum in another order. As
cychomatica/FreeDave does (read), with one token per step, without its caches, and on full attention only.
Cost: drafts lie beside the canvas in the same pass, so that a pass counts once in NFE and its positions
``draft_steps`` times; the authors' counter shows the first figure alone. The default is the least that
speculates; more drafts suit a GPU with room in its passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward, Shadow
from harness.decoding.masks import BLIND
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SamplingConfig, Score, SettingError, propose
from methods.block_loop import block_length
from methods.rules.rule import ranked

Algorithm = Literal["maskgit_plus", "topk_margin", "entropy", "low_confidence"]

_SCORES: dict[Algorithm, Score] = {"topk_margin": "margin", "entropy": "neg_entropy"}


@dataclass(frozen=True)
class Config(SamplingConfig):
    draft_steps: Annotated[
        int, Field(gt=0, description="steps drafted and verified in one pass; 1: none ahead")
    ] = 2
    alg: Annotated[
        Algorithm | None, Field(description="ranking; default entropy (Dream), low_confidence (LLaDA)")
    ] = None
    block_length: Annotated[
        int | None, Field(gt=0, description="semi-autoregressive blocks; default one block")
    ] = None


class Guess(NamedTuple):
    """A token that would be written at a position, and its probability."""

    position: int
    token: int
    probability: float


class FreeDave(RowDecoder):
    name = "freedave"
    summary = "lossless: drafts several one-token steps and verifies them in one pass"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})
    lossless = True

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)
        if config.temperature > 0:
            raise SettingError(
                f"drafts are verified against greedy tokens: set temperature=0, not {config.temperature:g}"
            )
        if spec.attention == "block_causal":
            raise SettingError(
                "freedave is lossless against full attention, and this model attends block by block: use "
                "block_diffusion"
            )

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        size = block_length(row.length - row.prompt_length, config.block_length)
        for start in range(row.prompt_length, row.length, size):
            block = (start, start + size)
            at = row.masked(*block)
            chain = _chain((yield Forward((0, row.length), at)), at, row, spec, config)
            while chain:
                _commit(row, chain[0])
                if left := row.masked(*block):
                    drafts = chain[1 : min(config.draft_steps, len(left))]
                    logits = yield _verifying(row, left, drafts)
                    chain = _walk(row, left, drafts, logits, spec, config)
                else:
                    chain = []


def _chain(logits: Tensor, at: Sequence[int], row: Row, spec: ModelSpec, config: Config) -> list[Guess]:
    """The tokens at ``at``, surest first; the first one exactly as the plain decoder would choose it."""
    if not at:
        return []
    alg = config.alg or ("entropy" if spec.shift else "low_confidence")
    found = propose(
        logits, row, spec, config, _SCORES.get(alg, "probability"), double=alg == "low_confidence"
    )
    first = int(torch.topk(found.score, 1).indices)
    order = [first, *(k for k in ranked(found.score, list(range(len(at)))) if k != first)]
    ids, probability = found.ids.tolist(), found.probability.tolist()
    return [Guess(at[k], ids[k], probability[k]) for k in order]


def _commit(row: Row, guess: Guess) -> None:
    row.commit([guess.position], [guess.token], [guess.probability])


def _open(left: Sequence[int], drafts: Sequence[Guess]) -> list[int]:
    taken = {draft.position for draft in drafts}
    return [position for position in left if position not in taken]


def _verifying(row: Row, left: list[int], drafts: list[Guess]) -> Forward:
    """The canvas and beside it one copy of it per draft, each with one drafted token more."""
    at, ids = list(left), [row.token(position) for position in range(row.length)]
    copies: list[int] = []
    for k, draft in enumerate(drafts, 1):
        ids[draft.position] = draft.token
        copies += ids
        at += [k * row.length + position for position in _open(left, drafts[:k])]
    places = list(range(row.length)) * len(drafts)
    shadow = Shadow(places, copies, BLIND, groups=len(drafts)) if drafts else None
    return Forward((0, row.length), at, shadow=shadow)


def _walk(
    row: Row, left: list[int], drafts: list[Guess], logits: Tensor, spec: ModelSpec, config: Config
) -> list[Guess]:
    """Commit the drafts that hold; the chain of the last state reached."""
    sizes = [len(left) - k for k in range(len(drafts) + 1)]
    parts = logits.split(sizes)
    chain = _chain(parts[0], left, row, spec, config)
    for k, draft in enumerate(drafts, 1):
        if chain[0][:2] != draft[:2]:
            break
        _commit(row, chain[0])
        chain = _chain(parts[k], _open(left, drafts[:k]), row, spec, config)
    return chain


METHOD = FreeDave()
