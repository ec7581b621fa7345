"""Streaming-dLLM (arXiv 2601.17917): Fast-dLLM's prefix cache with a short suffix, a threshold that falls
with the masks left, early exit.

In block [s, e) the model sees [0, e), the next ``suffix_window`` positions and the last one of the canvas, at
their true places. The pass that opens a block stores what is before it; the others feed the block and its
suffix. A token is written if its probability reaches threshold (1 - alpha (1 - r)), r the share of masks
among the positions fed; the best one always is. The opening pass writes by the plain threshold (LLaDA), or
exactly the first place of the block (Dream), as Fast-dLLM does. A complete block with an end-of-text ends the
answer. As in xiaoshideta/Streaming-dLLM (read: its LLaDA-1.5 prefix form and Dream's). With a window of the
canvas and alpha 0 it is Fast-dLLM's prefix cache, on LLaDA without the obligatory inner pass of a block that
is complete at once. Departures: the factor rule and the dual form (which fails with a threshold there) are
left out; alpha is .3 on every family (in the signatures .3 on LLaDA, .9 on Dream; the scripts set it per
task, see the presets).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Fraction, Program, RowDecoder, SamplingConfig, above_threshold, ask, commit_indices
from methods.block_loop import BlockLength, block_length


@dataclass(frozen=True)
class Config(SamplingConfig):
    block_length: BlockLength = 32
    threshold: Annotated[
        Fraction, Field(description="accept what is not below it while everything fed is masked")
    ] = 0.9
    alpha: Annotated[
        Fraction, Field(description="how far the threshold falls as masks are filled; 0: not at all")
    ] = 0.3
    suffix_window: Annotated[
        int, Field(ge=0, description="positions behind the block that are seen, besides the last one")
    ] = 32
    early_exit: Annotated[bool, Field(description="end with a complete block that holds an end-of-text")] = (
        True
    )


class StreamingDLLM(RowDecoder):
    name = "streaming_dllm"
    summary = "prefix cache with a short suffix window and a threshold that falls with the masks left"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def uses_cache(self, config: Config) -> bool:
        return True

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        size = block_length(row.length - row.prompt_length, config.block_length)
        for start in range(row.prompt_length, row.length, size):
            block = (start, start + size)
            yield from _block(row, spec, config, block)
            ends = [position for position in range(*block) if row.ends_answer(position, row.token(position))]
            if ends and config.early_exit and not row.divided:
                rest = [] if row.stopped else row.masked()
                if rest:
                    row.commit(rest, [row.token(ends[0])] * len(rest))
                return


def seen(row: Row, stop: int, window: int) -> list[int]:
    """Positions that a block ending at ``stop`` sees."""
    near = range(min(stop + window, row.length))
    return [*near, row.length - 1] if near.stop < row.length else list(near)


def falling_threshold(threshold: float, alpha: float, masks: int, fed: int) -> float:
    """The least probability that is written when ``masks`` of the ``fed`` positions are open."""
    return threshold * (1 - alpha * (1 - masks / fed))


def _block(row: Row, spec: ModelSpec, config: Config, block: Span) -> Program:
    feed, double = seen(row, block[1], config.suffix_window), not spec.shift
    at = [block[0]] if spec.shift else row.masked(*block)
    see = None if len(feed) == row.length else feed
    opening = Forward(feed=feed, at=at, keep=(0, block[0]), see=see, fresh=True)
    found = yield from ask(opening, row, spec, config, double=double)
    commit_indices(row, at, found, above_threshold(found.probability, config.threshold))
    window = [position for position in feed if position >= block[0]]
    while at := row.masked(*block):
        masks = sum(not row.written(position) for position in window)
        limit = falling_threshold(config.threshold, config.alpha, masks, len(window))
        found = yield from ask(Forward(feed=window, at=at, see=see), row, spec, config, double=double)
        commit_indices(row, at, found, above_threshold(found.probability, limit))


METHOD = StreamingDLLM()
