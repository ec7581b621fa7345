"""Statistics of the texts that a sample was written as side by side (its ``blocks``), from its step map
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.records.schema import Sample


def names_of(blocks: Sequence[object]) -> list[str]:
    """What to call the texts of an answer: R and A where there are two, else their numbers."""
    return ["R", "A"] if len(blocks) == 2 else [str(place + 1) for place in range(len(blocks))]


@dataclass(frozen=True)
class BlockStats:
    """One block of one sample.

    length, written: tokens of the block, and how many of them were committed.
    first, last: forward passes (0-based) of the block's first and last commit; None if nothing was written.
    fill: committed share of the block after each forward pass of the sample, [nfe].
    confidence: mean probability of the committed tokens, None if the decoder gave none.
    """

    length: int
    written: int
    first: int | None
    last: int | None
    fill: list[float]
    confidence: float | None

    @property
    def per_forward(self) -> float | None:
        """Tokens committed per forward pass between the block's first and last commit."""
        return (
            None if self.first is None or self.last is None else self.written / (self.last - self.first + 1)
        )


def block_stats(sample: Sample) -> list[BlockStats]:
    """One entry per block in order; a sample that was written as one text has one block, one without a trace
    none.
    """
    if not sample.step_map:
        return []
    blocks = sample.blocks or [(0, len(sample.step_map))]
    return [_block(sample, start, stop) for start, stop in blocks]


@dataclass(frozen=True)
class BlockMeans:
    """One block over the finished samples of a run.

    useful: mean tokens before its end-of-text. done: mean number of forward passes up to its last commit.
    confidence: mean probability of its committed tokens, None if the decoder gave none.
    """

    name: str
    useful: float
    done: float
    confidence: float | None


def block_means(samples: Sequence[Sample]) -> list[BlockMeans]:
    """One entry per block in order; empty where answers are one text."""
    divided = [
        sample for sample in samples if sample.status == "ok" and sample.block_useful and sample.step_map
    ]
    if not divided:
        return []
    stats = [block_stats(sample) for sample in divided]
    return [
        BlockMeans(
            name,
            fmean(sample.block_useful[place] for sample in divided),
            fmean(1 + (one[place].last or 0) for one in stats),
            _mean([value for one in stats if (value := one[place].confidence) is not None]),
        )
        for place, name in enumerate(names_of(divided[0].blocks))
    ]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _block(sample: Sample, start: int, stop: int) -> BlockStats:
    steps = [step for step in sample.step_map[start:stop] if step >= 0]
    known = [value for value in sample.confidence[start:stop] if value is not None]
    passes = max(sample.nfe or 0, max(steps, default=-1) + 1)
    return BlockStats(
        length=stop - start,
        written=len(steps),
        first=min(steps, default=None),
        last=max(steps, default=None),
        fill=[sum(step <= done for step in steps) / (stop - start) for done in range(passes)],
        confidence=_mean(known),
    )
