"""WINO (arXiv 2507.18578): writes widely, and takes back what a shadow block, which cannot see the token
itself, does not confirm.

A pass has one shadow row per position of the block: mask ids that see everything but their own counterpart,
and each other. Tokens known before the step whose probability under their shadow row falls below
``narrow_out_thres`` become masks again. source official (Feng-Hong/WINO-DLLM 9549a1d, LLaDA, float64):
accepts what lies above ``wide_in_thres``, at most 5 to 20 (70% of the masks); takes nothing back in a step
that accepted one token, and always fewer than the step before accepted. d2cache (with its block mask copied,
without which it loses revoked positions): accepts the threshold itself, at least ``num_transfer_tokens`` m,
and takes back a - m at most, a the number accepted now. Its pad ids inside a prompt are hidden from
attention; here they are seen. On models with shifted predictions a shadow row's logits come from the row
before it, which sees the token in question: as there, the test is then not leave-one-out. Published
thresholds (.5 to .8 and .9) are tuned per task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.decoding.forward import Forward, Shadow
from harness.decoding.policy import Step
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods.base import Program, RowDecoder, SamplingConfig
from methods.block_loop import BlockLength, block_length, open_positions, weigh
from methods.density import CertaintyDensity
from methods.rules import Algorithm, View
from methods.rules.rule import above, at_least, ranked

FIRST_LIMIT = 30


@dataclass(frozen=True)
class Config(SamplingConfig):
    source: Annotated[Literal["official", "d2cache"], Field(description="whose rule")] = "official"
    block_length: BlockLength = 32
    wide_in_thres: Annotated[float, Field(description="write scores above it")] = 0.6
    narrow_out_thres: Annotated[float, Field(description="take back tokens whose shadow gives them less")] = (
        0.9
    )
    window: Annotated[Literal["block"], Field(description="what the shadow stands for")] = "block"
    num_transfer_tokens: Annotated[
        int, Field(gt=0, description="least gain in tokens per step (d2cache)")
    ] = 1
    alg: Annotated[Algorithm, Field(description="what ranks the positions (d2cache)")] = "maskgit_plus"
    sigma: Annotated[
        float | None, Field(gt=0.0, description="width of the certainty prior, positions (d2cache)")
    ] = None
    stop_until_eos: Annotated[
        bool, Field(description="no positions behind a written end-of-text are decoded (d2cache)")
    ] = False

    def __post_init__(self) -> None:
        if self.source == "official" and (
            self.num_transfer_tokens != 1 or self.alg != "maskgit_plus" or self.sigma is not None
        ):
            raise ValueError("num_transfer_tokens, alg and sigma belong to source=d2cache")


class Wino(RowDecoder):
    name = "wino"
    summary = "writes widely, takes back what a leave-one-out shadow block does not confirm"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token"})

    def check(self, spec: ModelSpec, config: Config, new_tokens: int) -> None:
        block_length(new_tokens, config.block_length)

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        new = row.length - row.prompt_length
        size = block_length(new, config.block_length)
        prior = CertaintyDensity(new, config.sigma) if config.sigma is not None else None
        for start in range(row.prompt_length, row.length, size):
            block, last = (start, start + size), FIRST_LIMIT
            while open_positions(row, block, config.stop_until_eos):
                # The whole block is decoded as long as it is not finished, also behind an end-of-text, which
                # may be taken back.
                live = row.masked(*block)
                known = [position for position in range(*block) if row.written(position)]
                flags = [row.written(position) for position in range(row.prompt_length, row.length)]
                at = live + [row.length + position - start for position in known]
                logits = yield Forward((0, row.length), at, shadow=Shadow(at=range(*block)))
                logits = logits.double()
                back = logits[len(live) :].softmax(-1)
                held = [float(back[k, row.token(position)]) for k, position in enumerate(known)]
                view = View(row, Step(block, False, live, live), live, logits[: len(live)], spec, config)
                chosen = _accepted(view, config, prior, flags)
                taken = _revoked(config, held, len(chosen), last)
                last = len(chosen)
                ids, probability = view.ids.tolist(), view.probability.tolist()
                row.commit(
                    [live[k] for k in chosen], [ids[k] for k in chosen], [probability[k] for k in chosen]
                )
                if taken:
                    row.revise([known[k] for k in taken], [row.fill_id] * len(taken))


def _accepted(view: View, config: Config, prior: CertaintyDensity | None, known: list[bool]) -> list[int]:
    """Indices of the open positions to write, ascending."""
    score = weigh(view, view.confidence(config.alg), prior.at(known) if prior else None)
    cap = min(max(int(0.7 * len(view.live)), 5), 20)
    least = 1
    if config.source == "d2cache":
        least, cap = config.num_transfer_tokens, max(cap, config.num_transfer_tokens)
        chosen = at_least(score, config.wide_in_thres, view.live)
    else:
        chosen = above(score, config.wide_in_thres, view.live)
    if len(chosen) > cap:
        chosen = ranked(score, view.live)[:cap]
    return sorted(chosen if len(chosen) >= least else ranked(score, view.live)[:least])


def _revoked(config: Config, held: list[float], accepted: int, last: int) -> list[int]:
    """Indices of known tokens to take back, ascending; ``last``: how many the step before accepted."""
    failed = [k for k, value in enumerate(held) if value < config.narrow_out_thres]
    if config.source == "d2cache":
        limit = max(accepted - config.num_transfer_tokens, 0)
    elif accepted <= 1:
        limit = 0
    else:
        limit = last - 1
    return sorted(sorted(failed, key=lambda k: held[k])[:limit])


METHOD = Wino()
