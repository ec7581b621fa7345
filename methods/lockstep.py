"""Lockstep: a reasoning block R and an answer block A on one canvas, refined together.

The canvas is prompt, R, A. At every step each block commits its most confident masks: those at or above its
own threshold, at most ``max_fill_frac`` of the block's length, at least one. ``jacobi`` serves both blocks
from one forward. ``gauss_seidel`` runs the model a second time for A, after R's tokens are written, so that A
sees them; a block that needs no more tokens, or may not commit yet, costs no forward of its own.

With ``steps`` = N the pace is fixed: step i commits at least the share 1 / (N - i) of the masks left, rounded
up, and the last one takes the likeliest token everywhere (the cap, the thresholds and ``a_after_r`` yield),
so N steps are N forwards (jacobi) or 2N (gauss_seidel), fewer where the thresholds finish a block earlier.

Each block is a text with an end-of-text of its own (``Row.divide``): R ending early does not end the answer,
the early exit waits for both, and the graded text is R's followed by A's. Lengths come from a suite that
divides its canvas, from the markers of ``bench generate``, or from ``r_length`` and ``a_length``: A gets a
quarter of the canvas by default, R the rest.

With ``prompt_cache``, full attention follows Fast-dLLM's dual-cache rule: a full pass stores all keys, later
passes feed the open blocks alone and replace their keys in place, and a block that fills up calls for a new
full pass. Block-causal attention (D2F models: R and A as blocks of the pipeline) caches exactly, prompt
first, R once it is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.masks import BlockCausal
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Candidates, Fraction, Program, SamplingConfig, SettingError, propose
from methods.hooks import HookedDecoder

R, A = 0, 1


@dataclass(frozen=True)
class Config(SamplingConfig):
    mode: Annotated[
        Literal["jacobi", "gauss_seidel"],
        Field(description="one forward for both blocks, or a second one for A"),
    ] = "jacobi"
    r_length: Annotated[int | None, Field(gt=0, description="tokens of R; default: the canvas minus A")] = (
        None
    )
    a_length: Annotated[
        int | None,
        Field(gt=0, description="tokens of A; default: the canvas minus R, a quarter if neither is given"),
    ] = None
    tau_r: Annotated[Fraction, Field(description="R commits what is not below it")] = 0.90
    tau_a: Annotated[Fraction, Field(description="A commits what is not below it")] = 0.92
    max_fill_frac: Annotated[
        float, Field(gt=0.0, le=1.0, description="share of a block's length that one step may commit")
    ] = 0.4
    steps: Annotated[
        int | None,
        Field(gt=0, description="fixed number of steps with a greedy tail; default: until all is written"),
    ] = None
    a_after_r: Annotated[Fraction, Field(description="A waits until this share of R is written")] = 0.0
    stop_r_when_a_done: Annotated[bool, Field(description="leave R unfinished once A is complete")] = False
    attention: Annotated[
        Literal["full", "block_causal"], Field(description="block_causal: for D2F models")
    ] = "full"
    block_size: Annotated[
        int | None, Field(gt=0, description="block_causal: tokens per block; default a_length")
    ] = None
    prompt_cache: Annotated[
        bool, Field(description="reuse keys and values (dual-cache rule; exact if block_causal)")
    ] = False


class Board(Protocol):
    """What the schedule knows of the two blocks: a canvas row, or a tensor inside Dream's sampler."""

    def masked(self, start: int, stop: int) -> list[int]: ...

    def settled(self, index: int) -> bool: ...

    def abandon(self, index: int) -> None: ...

    def commit(self, at: Sequence[int], ids: Sequence[int], confidence: Sequence[float]) -> None: ...


class Turn(NamedTuple):
    """One forward: masks per served block, and whether the step is the greedy tail."""

    masks: dict[int, list[int]]
    last: bool

    @property
    def at(self) -> list[int]:
        return [position for masks in self.masks.values() for position in masks]


@dataclass
class Schedule:
    """Whose turn it is and how many tokens a turn commits; the same for the decoder and the hook pair."""

    board: Board
    spans: tuple[Span, Span]
    config: Config
    step: int = 0
    half: bool = False

    def turn(self) -> Turn | None:
        """The next forward's masks, None when both blocks are done."""
        if self.config.stop_r_when_a_done and self.board.settled(A):
            self.board.abandon(R)
        if self.board.settled(R) and self.board.settled(A):
            return None
        masks = {block: self.board.masked(*self.spans[block]) for block in (R, A)}
        if self.config.mode == "gauss_seidel":
            served = [A] if self.half or self.board.settled(R) else [R]
        else:
            served = [R, A] if self._may_answer(masks[R]) else [R]
        return Turn({block: masks[block] for block in served if masks[block]}, self._last)

    def commit(self, turn: Turn, candidates: Candidates) -> None:
        """Write the tokens of a turn from the candidates at ``turn.at``, and move on."""
        first = 0
        for block, masks in turn.masks.items():
            chosen = self._chosen(block, candidates.probability[first : first + len(masks)], turn.last)
            ids, probability = candidates.ids[first:].tolist(), candidates.probability[first:].tolist()
            self.board.commit(
                [masks[k] for k in chosen], [ids[k] for k in chosen], [probability[k] for k in chosen]
            )
            first += len(masks)
        answering = self.config.mode == "gauss_seidel" and A not in turn.masks
        self.half = (
            answering and not self.board.settled(A) and self._may_answer(self.board.masked(*self.spans[R]))
        )
        self.step += not self.half

    @property
    def _last(self) -> bool:
        return self.config.steps is not None and self.step >= self.config.steps - 1

    def _may_answer(self, open_r: list[int]) -> bool:
        start, stop = self.spans[R]
        share = 1.0 if self.board.settled(R) else 1 - len(open_r) / (stop - start)
        return self._last or share >= self.config.a_after_r

    def _chosen(self, block: int, probability: Tensor, last: bool) -> list[int]:
        left = len(probability)
        if last:
            return list(range(left))
        config, (start, stop) = self.config, self.spans[block]
        limit = torch.tensor(config.tau_r if block == R else config.tau_a, dtype=probability.dtype)
        # The tolerance keeps 0.3 * 10 at 3.
        cap = int(config.max_fill_frac * (stop - start) + 1e-9)
        confident = int((~(probability < limit.to(probability.device))).sum())
        pace = ceil(left / (config.steps - self.step)) if config.steps is not None else 1
        return sorted(torch.topk(probability, max(min(confident, cap), pace)).indices.tolist())


def layout(prompt_length: int, new_tokens: int, config: Config) -> tuple[Span, Span]:
    """Positions [start, stop) of R and A behind the prompt.

    Raises SettingError for blocks that overlap, have no room, or do not fit the model's block-causal grid.
    """
    r, a = config.r_length, config.a_length
    if a is None:
        a = max(1, new_tokens // 4) if r is None else new_tokens - r
    if r is None:
        r = new_tokens - a
    if r + a > new_tokens:
        raise SettingError(
            f"r_length {r} and a_length {a} overlap on a canvas of {new_tokens}: lower one or raise "
            "max_new_tokens"
        )
    if r < 1 or a < 1:
        full, name = ("a_length", "R") if r < 1 else ("r_length", "A")
        raise SettingError(
            f"{full} {max(r, a)} leaves no token for {name} on a canvas of {new_tokens}: lower it or raise "
            "max_new_tokens"
        )
    _check_grid(r, a, config)
    return (prompt_length, prompt_length + r), (prompt_length + r, prompt_length + r + a)


def given(row: Row, config: Config) -> tuple[Span, Span]:
    """R and A as the suite divided the row; SettingError for lengths that say otherwise, or another number of
    blocks.
    """
    if len(row.spans) != 2:
        raise SettingError(
            f"lockstep decodes two blocks and this suite has {len(row.spans)} blocks: use another method"
        )
    r, a = (stop - start for start, stop in row.spans)
    for name, length, asked in (("r_length", r, config.r_length), ("a_length", a, config.a_length)):
        if asked not in (None, length):
            raise SettingError(
                f"{name} {asked} contradicts the given blocks of {r} and {a} tokens: leave {name} out"
            )
    _check_grid(r, a, config)
    return row.spans[0], row.spans[1]


def _check_grid(r: int, a: int, config: Config) -> None:
    """SettingError if blocks of these lengths do not lie on the model's block-causal grid."""
    if config.attention == "block_causal":
        size = config.block_size or a
        if r % size or a % size:
            raise SettingError(
                f"block_size {size} must divide r_length {r} and a_length {a} with attention=block_causal; "
                "set all three"
            )
    elif config.block_size is not None:
        raise SettingError(
            "block_size has no effect with attention=full: drop it or set attention=block_causal"
        )


class Lockstep(HookedDecoder):
    """Without prompt_cache, Dream's hooks may be set on an instance; see methods.hooks."""

    name = "lockstep"
    summary = "reasoning and answer blocks on one canvas, refined together"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def uses_cache(self, config: Config) -> bool:
        return config.prompt_cache

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        if config.prompt_cache and self.hooked:
            raise SettingError(
                "hooks see the whole row at every step, which prompt_cache=true does not compute: set "
                "prompt_cache=false"
            )
        spans = (
            given(row, config)
            if row.divided
            else layout(row.prompt_length, row.length - row.prompt_length, config)
        )
        if not row.divided:
            row.divide([stop - start for start, stop in spans])
        schedule, windows, hooks = (
            Schedule(row, spans, config),
            Windows(row, spans, config, spec.shift),
            self.hooks(row),
        )
        hooks.begin()
        while (turn := schedule.turn()) is not None:
            logits = yield from hooks.look(windows.request(turn.at))
            schedule.commit(turn, propose(logits, row, spec, tail_config(config, turn)))
            hooks.written()


def tail_config(config: Config, turn: Turn) -> Config:
    """The sampling settings of a turn: greedy in the tail."""
    return replace(config, temperature=0.0) if turn.last else config


@dataclass
class Windows:
    """What each forward feeds and stores."""

    row: Row
    spans: tuple[Span, Span]
    config: Config
    shift: bool
    stored: int = 0
    fresh_for: tuple[int, ...] = ()

    def request(self, at: list[int]) -> Forward:
        """The forward that predicts positions ``at``."""
        end = self.spans[A][1]
        size = self.config.block_size or end - self.spans[A][0]
        if self.config.attention == "block_causal":
            return self._exact(at, end, size)
        if not self.config.prompt_cache:
            return Forward(feed=(0, end), at=at)
        opened = tuple(block for block in (R, A) if self.row.masked(*self.spans[block]))
        if opened != self.fresh_for:
            self.fresh_for = opened
            return Forward(feed=(0, end), at=at, keep=(0, end), fresh=True)
        # One place more to the left where the model predicts from the place before.
        window = (self.spans[opened[0]][0] - self.shift, self.spans[opened[-1]][1])
        return Forward(feed=window, at=at, keep=window)

    def _exact(self, at: list[int], end: int, size: int) -> Forward:
        if not self.config.prompt_cache:
            return Forward(feed=(0, end), at=at, mask=BlockCausal(size))
        complete = self.spans[R][0] if self.row.masked(*self.spans[R]) else self.spans[R][1]
        window, store = (self.stored, end), (self.stored, complete) if complete > self.stored else None
        self.stored = complete
        return Forward(feed=window, at=at, keep=store, mask=BlockCausal(size))


METHOD = Lockstep()
