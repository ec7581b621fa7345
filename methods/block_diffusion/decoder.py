"""Block diffusion: blocks from left to right, each filled by diffusion, attention causal between blocks, so
that caching is exact.

Presets give the rules of SDAR (``generate.py``), dLLM's BD3LM and LLaDA2 samplers, Fast-dLLM v2 (``generate``
under the harness' stop rule, ``batch_sample`` under the reference's) and SGLang's LowConfidence and
JointThreshold. Errors of the published code that are not here: Fast-dLLM v2 never sees a prompt of exactly
one block (its prefill needs more than one) and overlooks a stop token that the stored block hands on; SDAR
divides by temperature 0, overwrites known tokens when a schedule asks for more places than are masked, and
crashes in its entropy-bounded strategy; BD3LM takes a generated pad token for padding and runs the whole
prefix anew at every block (its finished blocks are stored here: same ids, same number of passes); LLaDA2 may
commit more places than are masked.

A block cut by the end of the canvas is short. Under the harness' stop rule a row ends with its first finished
text, so the last block is neither stored nor edited once it is full.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.base import Candidates, Program, RowDecoder, commit_indices, filtered, propose, rounded
from methods.block_diffusion.plan import PRESETS, Config, RowPlan, plan_of


class BlockDiffusion(RowDecoder):
    name = "block_diffusion"
    summary = "blocks from left to right with an exact cache (SDAR, Tiny-A2D, Fast-dLLM v2, LLaDA2 rules)"
    Config = Config
    requires: ClassVar[frozenset[str]] = frozenset({"mask_token", "blocks"})

    def uses_cache(self, config: Config) -> bool:
        return (config.cache or PRESETS[config.preset or "sdar"].cache) != "none"

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        plan = plan_of(config, row, spec)
        size, origin = plan.block_size, plan.mask.origin or 0
        start = origin + (row.prompt_length - origin) // size * size
        if plan.cache != "none" and start > 0:
            at = _handed_on(row, plan, start)
            logits = yield Forward(feed=(0, start), at=at, keep=(0, start), mask=plan.mask)
            _take_over(row, spec, config, at, logits)
        while row.masked():
            if _ended(row, (start, start + 1)):
                row.close(start + 1)
                return
            block = (start, min(start + size, row.length))
            yield from _fill(row, spec, plan, block)
            ended = _ended(row, block)
            last = ended or block[1] == row.length
            if plan.cache != "none" and (plan.store_last or not last):
                at = _handed_on(row, plan, block[1])
                logits = yield Forward(feed=block, at=at, keep=block, see=(0, start), mask=plan.mask)
                _take_over(row, spec, config, at, logits)
            if ended:
                row.close(block[1])
                return
            start = block[1]


def _fill(row: Row, spec: ModelSpec, plan: RowPlan, block: Span) -> Program:
    """Fill one block, part by part, and edit it if the settings say so."""
    settings = plan.settings
    if settings.edit_threshold is not None:
        # A full block, or one that ends the answer, is not final before its edits.
        row.hold(True)
        yield from _fill_and_edit(row, spec, plan, block, settings.edit_threshold)
        row.hold(False)
        return
    quotas, passes = plan.quotas(block[1] - block[0]), 0
    step = settings.sub_block_size or plan.block_size
    for first in range(*block, step):
        part = (first, min(first + step, block[1]))
        while live := row.masked(*part):
            whole = plan.cache != "block" or passes == 0 or part[0] in live
            logits = yield _look(plan, block, part, live, whole)
            candidates = _candidates(logits, row, spec, plan, live)
            commit_indices(
                row, live, candidates, _choose(candidates.probability, plan, plan.quota(quotas, passes))
            )
            passes += 1


def _fill_and_edit(row: Row, spec: ModelSpec, plan: RowPlan, block: Span, edit_threshold: float) -> Program:
    """Fill one block; in the same passes rewrite what the model now sees differently, until a pass over the
    full block changes nothing.
    """
    settings = plan.settings
    quotas, passes, posts = plan.quotas(block[1] - block[0]), 0, 0
    region = list(range(max(block[0], row.prompt_length), block[1]))
    while True:
        live = set(row.masked(*block))
        posts += not live
        spent = posts > settings.max_post_steps
        if spent and not plan.closing_look:
            return
        logits = yield _look(plan, block, block, region, True)
        if spent:
            return
        candidates = _candidates(logits, row, spec, plan, region)
        values, ids = candidates.probability.tolist(), candidates.ids.tolist()
        masked = [k for k, position in enumerate(region) if position in live]
        chosen = (
            [masked[k] for k in _choose(candidates.probability[masked], plan, plan.quota(quotas, passes))]
            if live
            else []
        )
        limit = rounded(edit_threshold, candidates.probability.dtype)
        rewritten = [
            k
            for k, position in enumerate(region)
            if position not in live and values[k] > limit and ids[k] != row.token(position)
        ]
        commit_indices(row, region, candidates, chosen)
        if rewritten:
            row.revise(
                [region[k] for k in rewritten], [ids[k] for k in rewritten], [values[k] for k in rewritten]
            )
        if not live and not rewritten:
            return
        passes += 1


def _look(plan: RowPlan, block: Span, part: Span, at: list[int], whole: bool) -> Forward:
    """A pass over the block, or over a part of it whose surroundings are kept from the last pass over the
    whole.
    """
    if plan.cache == "none":
        return Forward(feed=(0, block[1]), at=at, mask=plan.mask)
    if plan.cache == "exact":
        return Forward(feed=block, at=at, mask=plan.mask)
    if whole:
        return Forward(feed=block, at=at, keep=block, see=(0, block[0]), mask=plan.mask)
    return Forward(feed=part, at=at, keep=part, mask=plan.mask)


def _candidates(logits: Tensor, row: Row, spec: ModelSpec, plan: RowPlan, at: list[int]) -> Candidates:
    settings = plan.settings
    if settings.penalty_lambda:
        logits = logits.clone()
        inner = [k for k, position in enumerate(at) if (position - (plan.mask.origin or 0)) % plan.block_size]
        logits[inner, [row.token(at[k] - 1) for k in inner]] -= settings.penalty_lambda
    if settings.confidence == "filtered":
        logits = filtered(logits, settings.top_p, settings.top_k)
    return propose(logits, row, spec, settings)


def _choose(confidence: Tensor, plan: RowPlan, quota: int) -> list[int]:
    """Indices to commit, ascending; of equal confidences the leftmost."""
    values = confidence.tolist()
    if plan.alg == "sequential":
        return list(range(min(quota, len(values))))
    if plan.alg == "low_confidence_dynamic":
        limit = rounded(plan.settings.threshold, confidence.dtype)
        above = [k for k, value in enumerate(values) if value > limit]
        if len(above) >= quota:
            return above
    return sorted(sorted(range(len(values)), key=lambda k: (-values[k], k))[:quota])


def _handed_on(row: Row, plan: RowPlan, position: int) -> list[int]:
    """The position behind a stored block, if its token is to be predicted by the pass that stores it."""
    wanted = plan.hand_on and row.prompt_length <= position < row.length and not row.written(position)
    return [position] if wanted else []


def _take_over(row: Row, spec: ModelSpec, config: Any, at: list[int], logits: Tensor) -> None:
    if at:
        commit_indices(row, at, propose(logits, row, spec, config), [0])


def _ended(row: Row, span: Span) -> bool:
    """Whether the answer's end-of-text is written in the span."""
    region = range(max(span[0], row.prompt_length), min(span[1], row.length))
    return any(
        row.written(position) and row.ends_answer(position, row.token(position)) for position in region
    )


METHOD = BlockDiffusion()
