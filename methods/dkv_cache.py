"""dKV-Cache's own decoders (arXiv 2505.15781): the model's fixed schedule with a delayed store of keys and
values.

decode: Dream's time grid or LLaDA's even quotas, written tokens stored one step late (see
methods.caches.dkv). prefill: the prompt alone is stored (Dream). greedy: a random decoding order per block
(LLaDA); a step feeds what it writes, what the step before wrote, and a window of masked rows around it.
Against the paper: at batch 1 the authors report no gain in speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from harness.decoding.forward import Forward
from harness.decoding.policy import CachePolicy, Step
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SettingError, commit_indices, propose
from methods.caches.dkv import BlockDKV, ShiftedDKV
from methods.vanilla import Config as Schedule
from methods.vanilla import reveal, steps_per_block


@dataclass(frozen=True)
class Config(Schedule):
    variant: Annotated[
        Literal["decode", "prefill", "greedy"], Field(description="what is stored, see `bench list`")
    ] = "decode"
    cache_steps: Annotated[
        int | None, Field(ge=0, description="steps between refreshes; 0 or none: never")
    ] = 8
    shift: Annotated[
        Literal["un", "un_right"],
        Field(description="decode on models with shifted predictions: which rows are stored"),
    ] = "un"
    window_size: Annotated[
        int, Field(ge=0, description="greedy: masked rows fed around each place that is written")
    ] = 4
    order: Annotated[
        tuple[int, ...] | str | None,
        Field(description="greedy: output positions in decoding order, block after block"),
    ] = None
    source: Annotated[Literal["official"], Field(description="whose rule")] = "official"


class DKVCache(RowDecoder):
    name = "dkv_cache"
    summary = "fixed schedule with keys and values stored one step late, refreshed every few steps"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def uses_cache(self, config: Config) -> bool:
        return True

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        if config.variant == "greedy" and spec.shift:
            raise SettingError(
                "variant=greedy is defined for models that predict in place (LLaDA): set variant=decode or "
                "prefill"
            )
        if config.variant == "prefill" and not spec.shift:
            raise SettingError(
                "variant=prefill is defined for models with shifted predictions (Dream): set variant=decode "
                "or greedy"
            )
        steps_per_block(config, new_tokens, new_tokens if spec.shift else config.block_length or new_tokens)

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        every = config.cache_steps or 0
        self.check(spec, config, row.length - row.prompt_length)
        if config.variant == "greedy":
            yield from _greedy(row, spec, config, every)
        elif spec.shift:
            policy = ShiftedDKV(every, config.shift, config.variant == "prefill")
            yield from _scheduled(row, spec, config, policy)
        else:
            yield from _scheduled(row, spec, config, BlockDKV(every))


def _scheduled(row: Row, spec: ModelSpec, config: Config, policy: CachePolicy) -> Program:
    new = row.length - row.prompt_length
    length = new if spec.shift else config.block_length or new
    alg = config.alg or ("entropy" if spec.shift else "low_confidence")
    steps = steps_per_block(config, new, length)
    for start in range(row.prompt_length, row.length, length):
        for place in range(steps):
            live = row.masked(start, start + length)
            step = Step((start, start + length), place == 0, at=live, live=live)
            logits = yield policy.request(row, step)
            before = set(live)
            if live:
                reveal(row, spec, config, alg, live, logits, place, steps)
            policy.committed(row, step, sorted(before - set(row.masked(start, start + length))))


def _greedy(row: Row, spec: ModelSpec, config: Config, every: int) -> Program:
    new, first = row.length - row.prompt_length, row.prompt_length
    length = config.block_length or new
    steps = steps_per_block(config, new, length)
    order = _order(row, config, length)
    written: list[int] = []
    masked: set[int] = set(range(first, row.length))
    for start in range(0, new, length):
        queue = [first + place for place in order[start : start + length]]
        for place in range(steps):
            turn = queue[place * (length // steps) : (place + 1) * (length // steps)]
            at = sorted(turn)
            whole = place == 0 or (every > 0 and place % every == 0)
            near = {*at, *written, *_window(turn, written, masked, config.window_size)}
            feed = range(row.length) if whole else sorted(near)
            masked = set(row.masked())
            logits = yield Forward(feed=feed, at=at, keep=feed, fresh=whole)
            candidates = propose(logits, row, spec, config)
            commit_indices(row, at, candidates, range(len(at)))
            written = at


def _window(at: Sequence[int], written: Sequence[int], masked: set[int], size: int) -> set[int]:
    """Masked rows around each place, left and right in turn, ``size`` per place; a turn that finds none is
    spent.
    """
    taken = {*at, *written}
    found: set[int] = set()
    for position in at:
        added, distance = 0, 1
        while added < size and distance <= len(masked) + len(taken) + max(masked, default=0):
            for place in (position - distance, position + distance):
                if added < size and place in masked and place not in taken:
                    taken.add(place)
                    found.add(place)
                    added += 1
            distance += 1
    return found


def _order(row: Row, config: Config, length: int) -> list[int]:
    """Output positions in decoding order, block after block: given, or by one random number each."""
    new = row.length - row.prompt_length
    if config.order is not None:
        given = (
            [int(text) for text in config.order.strip("[]").split(",")]
            if isinstance(config.order, str)
            else list(config.order)
        )
        if sorted(given) != list(range(new)):
            raise SettingError(f"order must name each of the {new} output positions once")
        return given
    draws = torch.rand(new, generator=row.rng, device=row.rng.device)
    return [
        place
        for start in range(0, new, length)
        for place in sorted(range(start, start + length), key=lambda k: -float(draws[k]))
    ]


METHOD = DKVCache()
