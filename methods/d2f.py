"""D2F decoding (Discrete Diffusion Forcing, arXiv 2508.09192): pipelined blocks with delayed caching.

Attention is block-causal (the prompt is block 0; on a block-diffusion model its own blocks hold), so caching
is exact. A block joins the window when its predecessor is far enough (``block_add_threshold``), must commit
something every pass once it is fully activated (``decoded_token_threshold``), and is cached by the pass after
the one that finished it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.decoding.forward import Forward
from harness.decoding.masks import BlockCausal, Mask, own_blocks
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import (
    Candidates,
    Fraction,
    Program,
    RowDecoder,
    SamplingConfig,
    Score,
    SettingError,
    ask,
    commit_indices,
    rounded,
)

SCORES: dict[str, Score] = {
    "default": "probability",
    "neg_entropy": "neg_entropy",
    "margin_confidence": "margin",
}


@dataclass(frozen=True)
class Config(SamplingConfig):
    block_size: Annotated[
        int, Field(gt=0, description="tokens per block; max_new_tokens is rounded down to whole blocks")
    ] = 32
    block_add_threshold: Annotated[
        Fraction, Field(description="decoded share of the last block that adds the next one")
    ] = 0.1
    decoded_token_threshold: Annotated[
        Fraction, Field(description="decoded share that fully activates the successor")
    ] = 0.95
    skip_threshold: Annotated[Fraction, Field(description="commit tokens with a probability above it")] = 0.9
    sampling_strategy: Annotated[
        Literal["default", "neg_entropy", "margin_confidence"],
        Field(description="ranking of the forced token"),
    ] = "default"


@dataclass
class PipelineBlock:
    """A block in the pipeline, positions [start, stop)."""

    start: int
    stop: int
    left: int
    full: bool = False
    phase: Literal["active", "to_cache", "in_cache"] = "active"

    @property
    def ratio(self) -> float:
        size = self.stop - self.start
        return (size - self.left) / size if size else 1.0


@dataclass
class Pipeline:
    """The window of live blocks of one row."""

    row: Row
    config: Config
    mask: Mask
    blocks: list[PipelineBlock] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        prompt, size, origin = (
            self.row.prompt_length,
            self.config.block_size,
            getattr(self.mask, "origin", None),
        )
        # Where blocks count from a position of the model's own, the first one begins inside the prompt.
        start = prompt if origin is None else origin + (prompt - origin) // size * size
        self.limit = (self.row.length - start) // size
        if self.limit == 0:
            raise SettingError(
                f"block_size {self.config.block_size} is larger than max_new_tokens; change one of them"
            )
        self.blocks = [PipelineBlock(0, start, 0, full=True, phase="to_cache")]

    def grow(self) -> None:
        """Add at most one block, then activate the successors of blocks that are far enough."""
        last = self.blocks[-1]
        if (
            len(self.blocks) <= self.limit
            and not self.ended
            and last.ratio >= self.config.block_add_threshold
        ):
            size = self.config.block_size
            span = (last.stop, last.stop + size)
            self.blocks.append(PipelineBlock(*span, len(self.row.masked(*span))))
        for block, successor in zip(self.blocks, self.blocks[1:], strict=False):
            if block.ratio >= self.config.decoded_token_threshold:
                successor.full = True

    @property
    def active(self) -> list[PipelineBlock]:
        return [block for block in self.blocks if block.phase == "active"]

    def masked(self) -> list[int]:
        """Unwritten positions of the active blocks."""
        return [position for block in self.active for position in self.row.masked(block.start, block.stop)]

    def request(self) -> Forward:
        """The next pass: blocks to be cached, then the active ones; stores the former."""
        waiting = [block for block in self.blocks if block.phase == "to_cache"]
        live = waiting + self.active
        store = (waiting[0].start, waiting[-1].stop) if waiting else None
        for block in waiting:
            block.phase = "in_cache"
        window = (live[0].start, live[-1].stop)
        return Forward(feed=window, at=self.masked(), keep=store, mask=self.mask)

    def fill(self, at: list[int], candidates: Candidates) -> None:
        """Commit, block by block, what is above the threshold; a full block commits its best one at least."""
        limit = rounded(self.config.skip_threshold, candidates.probability.dtype)
        probability, ids = candidates.probability.tolist(), candidates.ids.tolist()
        chosen: list[int] = []
        first = 0
        for block in self.active:
            indices = range(first, first + block.left)
            first += block.left
            accepted = [k for k in indices if probability[k] > limit]
            if not accepted and block.full and block.left:
                scores = candidates.score[indices.start : indices.stop]
                accepted = [indices.start + int(scores.argmax())]
            block.left -= len(accepted)
            chosen += accepted
        commit_indices(self.row, at, candidates, chosen)
        self.ended = self.ended or any(self.row.ends_answer(at[k], ids[k]) for k in chosen)

    def retire(self) -> None:
        """A finished block may be cached once no earlier block is active."""
        for block in self.blocks:
            if block.phase == "active":
                if block.left:
                    return
                block.phase = "to_cache"


def block_mask(row: Row, spec: ModelSpec, size: int) -> BlockCausal:
    """Blocks from the end of the prompt; on a block-diffusion model its own, so that stored keys are exact.

    SettingError for a block size that would cut the model's blocks.
    """
    if spec.attention != "block_causal" or spec.block_size is None:
        return BlockCausal(size)
    if size % spec.block_size:
        raise SettingError(
            f"block_size {size} cuts this model's blocks of {spec.block_size}: set block_size to a "
            "multiple of it"
        )
    own = own_blocks(spec, row.prompt_length)
    return own


class D2F(RowDecoder):
    name = "d2f"
    summary = "pipelined block-causal decoding with exact delayed caching (needs a D2F-distilled model)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token", "block_causal", "adapter:d2f"})

    def uses_cache(self, config: Config) -> bool:
        return True

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        pipeline = Pipeline(row, config, block_mask(row, spec, config.block_size))
        score = SCORES[config.sampling_strategy]
        while True:
            pipeline.grow()
            if not pipeline.active:
                break
            request = pipeline.request()
            candidates = yield from ask(request, row, spec, config, score)
            if request.at:
                pipeline.fill(list(request.at), candidates)
            pipeline.retire()
        row.close(pipeline.blocks[-1].stop)


METHOD = D2F()
