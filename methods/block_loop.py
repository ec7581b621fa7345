"""One loop for every choosing rule and every cache policy: blocks from left to right, a forward pass, a
choice, a commit.

The loop of the d2Cache repository (Kamichanw/d2Cache, commit 72feb60). Departures: a position that was not
fed has no logits and is no candidate (there it has zero logits and may be written as id 0); the mask id is
never written; of equal scores the lowest position wins (there the order is torch.topk's). Nothing is ever
revised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SettingError
from methods.caches import INSIDE, CacheConfig, make_policy
from methods.density import CertaintyDensity
from methods.rules import RULES, Algorithm, Rule, View

BlockLength = Annotated[
    int | None, Field(gt=0, description="block size; none: the whole canvas as one block")
]
"""A setting of methods that decode block by block."""


@dataclass(frozen=True)
class BlockConfig(CacheConfig):
    """Settings of every method on the block loop."""

    block_length: BlockLength = 32
    stop_until_eos: Annotated[
        bool, Field(description="no positions behind a written end-of-text are decoded")
    ] = False


@dataclass(frozen=True)
class RankedConfig(BlockConfig):
    """Settings of the rules that rank a block's positions by a score. Raises ValueError for two ways of
    accepting at once.
    """

    num_transfer_tokens: Annotated[int, Field(gt=0, description="least number of tokens per step")] = 1
    alg: Annotated[Algorithm, Field(description="what ranks the positions")] = "maskgit_plus"
    threshold: Annotated[float | None, Field(description="accept every score that reaches it")] = None
    factor: Annotated[
        float | None, Field(gt=0.0, description="accept by the factor rule; larger accepts more")
    ] = None
    sigma: Annotated[
        float | None, Field(gt=0.0, description="width of the certainty prior, positions; none: no prior")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = [name for name in ("threshold", "factor", "gamma") if getattr(self, name, None) is not None]
        if len(rules) > 1:
            raise ValueError(f"{' and '.join(rules)} exclude each other: set one of them")


class BlockDecoder(RowDecoder):
    """A method that is a choosing rule: name, summary, Config and ``rule`` (a key of ``RULES``) are all that
    it needs.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})
    rule: ClassVar[str] = "confidence"

    def uses_cache(self, config: Any) -> bool:
        return config.cache not in (None, "none")

    def check(self, spec: ModelSpec, config: Any, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)
        if spec.attention == "block_causal" and config.cache in INSIDE:
            raise SettingError(
                f"cache={config.cache} works inside layers in which everything is seen, this model attends "
                "by blocks: set cache"
            )

    def decode_row(self, row: Row, spec: ModelSpec, config: Any) -> Program:
        yield from block_loop(
            row, spec, config, RULES[self.rule](row, spec, config), make_policy(config, spec)
        )


def block_length(new_tokens: int, length: int | None) -> int:
    """The block size; SettingError unless it divides the canvas."""
    if new_tokens % (length or new_tokens):
        raise SettingError(
            f"block_length {length} must divide max_new_tokens {new_tokens}; change one of them"
        )
    return length or new_tokens


def open_positions(row: Row, block: Span, until_eos: bool) -> list[int]:
    """Unwritten positions of the block that are still to be decoded."""
    end = row.eos_position if until_eos else None
    return row.masked(block[0], block[1] if end is None else min(block[1], end))


def block_loop(row: Row, spec: ModelSpec, config: Any, rule: Rule, policy: CachePolicy) -> Program:
    """Decode one row by ``rule`` with ``policy``."""
    length, prior = block_length(row.length - row.prompt_length, rule.block_length), _prior(row, config)
    start = row.prompt_length
    while start < row.length:
        block, first = (start, min(start + length, row.length)), True
        rule.begin(block)
        while live := open_positions(row, block, config.stop_until_eos):
            for _ in range(rule.passes(len(live))):
                live = open_positions(row, block, config.stop_until_eos)
                step = Step(block, first, at=rule.wants(live, first), live=live)
                known = (
                    [row.written(position) for position in range(row.prompt_length, row.length)]
                    if prior
                    else []
                )
                request = policy.request(row, step)
                logits = yield request
                if live:
                    view = View(row, step, list(request.at), logits, spec, config)
                    step = _settle(view, rule, config)
                    block = step.block
                    _write(view, rule, policy, prior.at(known) if prior else None)
                first = False
        if rule.finished(block):
            return
        start = block[1]


def _prior(row: Row, config: Any) -> CertaintyDensity | None:
    """The certainty prior of the whole generation region, if ``sigma`` asks for one."""
    sigma = getattr(config, "sigma", None)
    return CertaintyDensity(row.length - row.prompt_length, sigma) if sigma is not None else None


def _settle(view: View, rule: Rule, config: Any) -> Step:
    """Give the view the extent that the rule finds for the block after its first pass."""
    step = view.step
    block = rule.resize(view, step.block) if step.first else step.block
    if block != step.block:
        view.narrow(replace(step, block=block, live=open_positions(view.row, block, config.stop_until_eos)))
    return view.step


def weigh(view: View, confidence: Tensor, density: Tensor | None) -> Tensor:
    """Confidences [k] times the certainty density [new tokens] at their positions, if there is one."""
    if density is None:
        return confidence
    places = torch.tensor([position - view.row.prompt_length for position in view.at])
    return confidence * density[places].to(confidence.device, confidence.dtype)


def _write(view: View, rule: Rule, policy: CachePolicy, density: Tensor | None) -> None:
    """Choose, commit and tell the policy."""
    row, confidence = view.row, rule.confidence(view)
    score = weigh(view, confidence, density)
    chosen = sorted(rule.choose(view, score))
    written = [view.at[k] for k in chosen]
    if chosen:
        index = torch.tensor(chosen, device=view.ids.device)
        row.commit(written, view.ids[index], view.probability[index])
    policy.committed(row, view.step, written, confidence)
