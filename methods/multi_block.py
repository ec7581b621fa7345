"""Entropy multi-block decoding (d3LLM, arXiv 2601.07568): several blocks at once, each writing what has low
entropy.

A block is added once the last one has ``block_add_threshold`` of its tokens, and is fully active once its
predecessor has ``decoded_token_threshold``; the first fully active block with masks writes at least one token
per pass. LLaDA accepts the threshold itself and always the lowest entropy of all; Dream accepts what lies
below. Early stop: what follows a written end-of-text becomes end-of-text at the start of the next step;
candidates were taken before that, so positions behind it may be decoded once more and are overwritten again.
As hao-ai-lab/d3LLM e5bfcac does it, full attention on the whole canvas, or with its delayed cache
(methods.caches.delayed). Scripts: threshold .4 (Dream) and .5 (LLaDA), blocks of 32, .1 and .95; signatures:
.9 and .5, .5 and .5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Fraction, Program, RowDecoder, SamplingConfig, propose
from methods.block_loop import block_length
from methods.caches.delayed import DelayedCache
from methods.rules.rule import above, at_least, ranked


@dataclass(frozen=True)
class Config(SamplingConfig):
    source: Annotated[Literal["official"], Field(description="whose rule")] = "official"
    block_length: Annotated[int, Field(gt=0, description="block size")] = 32
    entropy_threshold: Annotated[float, Field(ge=0.0, description="largest entropy, nats")] = 0.45
    block_add_threshold: Annotated[
        Fraction, Field(description="decoded share of the last block that adds the next one")
    ] = 0.1
    decoded_token_threshold: Annotated[
        Fraction, Field(description="decoded share that fully activates the successor")
    ] = 0.95
    early_stop: Annotated[bool, Field(description="fill what follows an end-of-text with end-of-text")] = True
    cache_delay_iter: Annotated[
        int | None,
        Field(
            gt=0,
            description="store a block so many steps after its completion (there 1 Dream, 2 LLaDA); none: "
            "no cache",
        ),
    ] = None
    refresh_interval: Annotated[
        int | None, Field(gt=0, description="steps between refreshes of the store; none: never")
    ] = None

    def __post_init__(self) -> None:
        if self.refresh_interval is not None and self.cache_delay_iter is None:
            raise ValueError(
                "refresh_interval refreshes the store that cache_delay_iter asks for: set cache_delay_iter"
            )


class Blocks:
    """The blocks that exist so far on one row."""

    def __init__(self, row: Row, config: Config) -> None:
        self.row, self.config = row, config
        self.starts = list(range(row.prompt_length, row.length, config.block_length))
        self.on = [True]

    @property
    def complete(self) -> bool:
        return len(self.on) == len(self.starts)

    @property
    def end(self) -> int:
        return self.starts[len(self.on) - 1] + self.config.block_length

    @property
    def spans(self) -> list[Span]:
        """Prompt and blocks."""
        return [(0, self.starts[0]), *((start, start + self.config.block_length) for start in self.starts)]

    def masked(self, index: int) -> list[int]:
        return self.row.masked(self.starts[index], self.starts[index] + self.config.block_length)

    def progress(self, index: int) -> float:
        return 1 - len(self.masked(index)) / self.config.block_length

    def grow(self) -> None:
        """Activate the successors of blocks that are far enough, then add at most one block."""
        for index in range(1, len(self.on)):
            self.on[index] = self.on[index] or self._activates(index - 1)
        last = len(self.on) - 1
        if not self.complete and self.progress(last) >= self.config.block_add_threshold:
            self.on.append(self._activates(last))

    def _activates(self, index: int) -> bool:
        return self.progress(index) >= self.config.decoded_token_threshold

    def fill_behind(self, position: int) -> None:
        """Make everything behind a position the token at it; blocks that do not exist yet are complete
        then.
        """
        token, row = self.row.token(position), self.row
        changed = [p for p in range(position + 1, row.end) if not row.written(p) or row.token(p) != token]
        if changed:
            row.revise(changed, [token] * len(changed))
        self.on += [self._activates(index - 1) for index in range(len(self.on), len(self.starts))]


class MultiBlock(RowDecoder):
    name = "multi_block"
    summary = "several blocks at once, each writing tokens of low entropy (d3LLM)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def uses_cache(self, config: Config) -> bool:
        return config.cache_delay_iter is not None

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        self.check(spec, config, row.length - row.prompt_length)
        blocks = Blocks(row, config)
        store = (
            DelayedCache(row, blocks.spans, config.cache_delay_iter, config.refresh_interval)
            if config.cache_delay_iter
            else None
        )
        while row.masked() or not blocks.complete:
            before = row.masked()
            if config.early_stop and row.eos_position is not None and not row.divided:
                blocks.fill_behind(row.eos_position)
                if not row.masked():
                    return
            blocks.grow()
            # With early stop every open place may become end-of-text next: its logits are looked at as well.
            at = before if config.early_stop else [position for position in before if position < blocks.end]
            logits = yield store.request(at) if store else Forward((0, row.length), at)
            _write(row, spec, blocks, at, logits)


def _write(row: Row, spec: ModelSpec, blocks: Blocks, at: list[int], logits: Tensor) -> None:
    """Write what has low entropy in any block, and what must be written."""
    config, candidates = blocks.config, propose(logits, row, spec, blocks.config)
    probs = logits.softmax(-1, dtype=torch.float64)
    score = (probs * (probs + 1e-12).log()).sum(-1)
    among = [k for k, position in enumerate(at) if position < blocks.end]
    chosen = set((above if spec.shift else at_least)(score, -config.entropy_threshold, among))
    if not spec.shift:
        chosen |= set(ranked(score, among)[:1])
    for index, on in enumerate(blocks.on):
        if on and (left := set(blocks.masked(index))):
            inside = [k for k in among if at[k] in left]
            if inside and not chosen & set(inside):
                chosen.add(ranked(score, inside)[0])
            break
    ids, probability = candidates.ids.tolist(), candidates.probability.tolist()
    written = [k for k in sorted(chosen) if not row.written(at[k]) or row.token(at[k]) != ids[k]]
    row.revise([at[k] for k in written], [ids[k] for k in written], [probability[k] for k in written])


METHOD = MultiBlock()
