"""SlowFast sampling (arXiv 2506.10848): explores how far the model is sure, then fills that stretch without
looking behind it.

Per cycle: ``k_exploration_steps`` full passes (all of them, even when the length is already settled or the
block complete) estimate the cycle's length from the farthest sure position; then the stretch is filled, all
passes but the first without what lies behind it. A position behind is cut off, not cached. As
LiangrunFlora/Slow-Fast-Sampling dd9958f does it for LLaDA, without its feature cache; the same on Dream is a
departure (there: no blocks, other constants).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Candidates, Fraction, Program, RowDecoder, SamplingConfig, commit_indices, propose
from methods.block_loop import BlockLength, block_length
from methods.rules.rule import at_least, ranked


@dataclass(frozen=True)
class Config(SamplingConfig):
    source: Annotated[Literal["official"], Field(description="whose rule")] = "official"
    block_length: BlockLength = None
    k_exploration_steps: Annotated[
        int, Field(gt=0, description="passes that explore at the start of a cycle")
    ] = 6
    cycle_len_confidence_threshold: Annotated[
        Fraction, Field(description="probability that still belongs to the cycle")
    ] = 0.3
    cycle_length_stability_window: Annotated[
        int, Field(gt=0, description="estimates of the length that must agree")
    ] = 2
    cycle_length_stability_std_dev_threshold: Annotated[
        float, Field(gt=0.0, description="their largest standard deviation")
    ] = 1.0
    high_confidence_threshold: Annotated[
        Fraction, Field(description="write all such tokens if there are two or more")
    ] = 0.9


@dataclass
class Cycle:
    """The estimates of one cycle's length, counted from the block's start."""

    config: Config
    last: int
    size: int
    settled: bool = False
    length: int = 0

    def __post_init__(self) -> None:
        self.estimates: list[int] = []

    def estimate(self, reach: int, final: bool) -> None:
        """Take in how many positions behind ``last`` the sure ones reach; ``final``: at the last exploring
        step.
        """
        if self.settled:
            return
        self.estimates.append(min(max(self.last + reach, 1), self.size))
        window = self.estimates[-self.config.cycle_length_stability_window :]
        if len(window) < self.config.cycle_length_stability_window:
            self.length = int(fmean(window))
        elif pstdev(window) < self.config.cycle_length_stability_std_dev_threshold:
            self.length, self.settled = self.estimates[-1], True
        else:
            self.length, self.settled = int(fmean(window)), final


class SlowFast(RowDecoder):
    name = "slow_fast"
    summary = "explores how far the model is sure, then fills that stretch without its suffix"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        size = block_length(row.length - row.prompt_length, config.block_length)
        for start in range(row.prompt_length, row.length, size):
            last, stop = 0, start + size
            while row.masked(start, stop):
                cycle = Cycle(config, last, size)
                yield from _explore(row, spec, config, cycle, (start + last, stop))
                end, feed = start + cycle.length, row.length
                while at := row.masked(start + last, end):
                    logits = yield Forward((0, feed), at)
                    _fill(row, config, at, propose(logits, row, spec, config))
                    feed = end
                last = cycle.length


def _explore(row: Row, spec: ModelSpec, config: Config, cycle: Cycle, span: Span) -> Program:
    """The exploring passes over what is left of the block."""
    for step in range(config.k_exploration_steps):
        at = row.masked(*span)
        logits: Tensor = yield Forward((0, row.length), at)
        candidates = propose(logits, row, spec, config)
        sure = at_least(candidates.probability, config.cycle_len_confidence_threshold, list(range(len(at))))
        reach = at[sure[-1]] - span[0] + 1 if sure else int(span[0] < span[1])
        cycle.estimate(reach, step == config.k_exploration_steps - 1)
        if at:
            _fill(row, config, at, candidates)


def _fill(row: Row, config: Config, at: list[int], candidates: Candidates) -> None:
    """All tokens of high confidence if there are several, else the best one."""
    everyone = list(range(len(at)))
    high = at_least(candidates.probability, config.high_confidence_threshold, everyone)
    commit_indices(
        row, at, candidates, high if len(high) > 1 else ranked(candidates.probability, everyone)[:1]
    )


METHOD = SlowFast()
