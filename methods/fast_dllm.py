"""Fast-dLLM v1 (arXiv 2505.22618): block-wise approximate KV caching and confidence-parallel commits.

cache: none, prefix (everything before the block), dual (all positions, the block replaced in place).
alg: the model's fixed schedule (entropy on Dream, low_confidence on LLaDA), confidence_threshold, factor.
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
from methods.base import (
    Fraction,
    Program,
    SamplingConfig,
    Score,
    SettingError,
    above_threshold,
    ask,
    by_factor,
    commit_indices,
    propose,
    rounded,
)
from methods.hooks import HookedDecoder, RowHooks


@dataclass(frozen=True)
class Config(SamplingConfig):
    cache: Annotated[
        Literal["none", "prefix", "dual"] | None,
        Field(description="which keys/values are reused inside a block"),
    ] = "prefix"
    alg: Annotated[
        Literal["confidence_threshold", "factor", "entropy", "low_confidence"],
        Field(description="what a step commits"),
    ] = "confidence_threshold"
    threshold: Annotated[
        Fraction | None, Field(description="accept what is not below it (confidence_threshold)")
    ] = 0.9
    factor: Annotated[float, Field(gt=0.0, description="larger accepts more (factor)")] = 1.0
    block_length: Annotated[
        int | None, Field(gt=0, description="block size; none with cache=none: the whole canvas at once")
    ] = 32
    steps: Annotated[int | None, Field(gt=0, description="schedule length; default one token per step")] = (
        None
    )
    eps: Annotated[float, Field(gt=0.0, lt=1.0, description="end of the time grid (Dream schedule)")] = 1e-3


class FastDLLM(HookedDecoder):
    """With cache=none, Dream's hooks may be set on an instance; see methods.hooks."""

    name = "fast_dllm"
    summary = "approximate prefix/dual KV cache with schedule, threshold or factor decoding"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def uses_cache(self, config: Config) -> bool:
        return config.cache in ("prefix", "dual")

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        cached = self.uses_cache(config)
        if config.alg == "confidence_threshold" and config.threshold is None:
            raise SettingError("alg=confidence_threshold needs threshold, e.g. --set threshold=0.9")
        if cached and self.hooked:
            raise SettingError(
                f"hooks see the whole row at every step, which cache={config.cache} does not compute: set "
                "cache=none"
            )
        hooks = self.hooks(row)
        hooks.begin()
        if not cached and spec.shift and config.block_length is None:
            yield from _global(row, spec, config, hooks)
            return
        length, per_block = _blocks(row, config)
        for start in range(row.prompt_length, row.length, length):
            block = (start, start + length)
            if spec.shift and cached:
                yield from _dream_block(row, spec, config, block, per_block)
            else:
                yield from _inclusive_block(row, spec, config, block, per_block, hooks)


def _blocks(row: Row, config: Config) -> tuple[int, int]:
    new = row.length - row.prompt_length
    length = config.block_length or new
    if new % length:
        raise SettingError(f"block_length {length} must divide max_new_tokens {new}; change one of them")
    blocks = new // length
    steps = config.steps or new
    if steps % blocks:
        raise SettingError(
            f"steps {steps} must be a multiple of the {blocks} blocks (max_new_tokens / block_length)"
        )
    if config.alg == "entropy" and steps // blocks < 2:
        raise SettingError(
            f"alg=entropy needs at least two steps per block; set steps to {2 * blocks} or more"
        )
    return length, steps // blocks


def _windows(row: Row, config: Config, block: Span) -> tuple[Span, Span, Span | None]:
    """(stored by the refresh, inner window, stored by an inner pass)."""
    if config.cache == "dual":
        return (0, row.length), block, block
    return (0, block[0]), (block[0], row.length), None


def _dream_block(row: Row, spec: ModelSpec, config: Config, block: Span, steps: int) -> Program:
    """Refresh, reveal exactly the first place from it (that is what makes the shifted slice legal), then
    inner passes.
    """
    keep, window, store = _windows(row, config, block)
    refresh = Forward(feed=(0, row.length), at=[block[0]], keep=keep, fresh=True)
    commit_indices(row, [block[0]], (yield from ask(refresh, row, spec, config)), [0])
    grid = torch.linspace(1, config.eps, steps + 1)
    step = 1
    while at := row.masked(*block):
        score: Score = "neg_entropy" if config.alg == "entropy" else "probability"
        request = Forward(feed=window, at=at, keep=store)
        candidates = yield from ask(request, row, spec, config, score, double=config.alg == "low_confidence")
        if config.alg == "entropy":
            last = step == steps - 1
            count = len(at) if last else int(torch.tensor(float(len(at))) * (1 - grid[step + 1] / grid[step]))
            chosen = sorted(torch.topk(candidates.score, count).indices.tolist())
        else:
            chosen = _accept(candidates.probability, config, len(at), step, steps, block)
        commit_indices(row, at, candidates, chosen)
        step += 1


def _inclusive_block(
    row: Row, spec: ModelSpec, config: Config, block: Span, steps: int, hooks: RowHooks
) -> Program:
    """LLaDA's loop: the refresh also decodes; with a cache at least one inner pass follows (as upstream)."""
    cached = config.cache in ("prefix", "dual")
    keep, window, store = _windows(row, config, block)
    step = 0
    while True:
        at = row.masked(*block)
        if not cached:
            request = Forward(feed=(0, row.length), at=at)
        elif step == 0:
            request = Forward(feed=(0, row.length), at=at, keep=keep, fresh=True)
        else:
            request = Forward(feed=window, at=at, keep=store)
        score: Score = "neg_entropy" if config.alg == "entropy" else "probability"
        candidates = yield from hooks.ask(request, spec, config, score, double=not spec.shift)
        if at:
            chosen = _accept(candidates.score, config, len(at), step, steps, block)
            commit_indices(row, at, candidates, chosen)
        hooks.written()
        step += 1
        if not row.masked(*block) and (step > 1 or not cached):
            return


def _accept(confidence: Tensor, config: Config, left: int, step: int, steps: int, block: Span) -> list[int]:
    if config.alg == "confidence_threshold":
        return above_threshold(confidence, config.threshold or 0.0)
    if config.alg == "factor":
        return by_factor(confidence, config.factor)
    size = block[1] - block[0]
    quota = size // steps + (1 if step < size % steps else 0)
    if step >= steps - 1:
        quota = left
    return sorted(torch.topk(confidence, min(quota, left)).indices.tolist())


def _global(row: Row, spec: ModelSpec, config: Config, hooks: RowHooks) -> Program:
    """Dream without cache or blocks: a budget of tokens per step over the whole canvas; rejects carry
    over.
    """
    if config.alg != "confidence_threshold":
        raise SettingError(
            "cache=none with block_length=none supports alg=confidence_threshold only; set block_length"
        )
    new = row.length - row.prompt_length
    steps = config.steps or max(1, new // 32)
    if new % steps:
        raise SettingError(
            f"steps {steps} must divide max_new_tokens {new} for cache=none with block_length=none"
        )
    quota, carry, step = new // steps, 0, 0
    threshold = rounded(config.threshold, torch.float32)
    while step < steps:
        at = row.masked()
        if not at:
            return
        logits = yield from hooks.look(Forward(feed=(0, row.length), at=at))
        candidates = propose(logits, row, spec, config)
        budget = min(quota + carry, len(at))
        ranked = torch.topk(candidates.probability, budget)
        values, order = ranked.values.tolist(), ranked.indices.tolist()
        chosen = [order[k] for k in range(budget) if k == 0 or not values[k] < threshold]
        carry = quota + carry - len(chosen)
        commit_indices(row, at, candidates, sorted(chosen))
        hooks.written()
        step += 1
        if step == steps and carry > 0 and row.masked():
            quota, steps = 0, steps + 1


METHOD = FastDLLM()
