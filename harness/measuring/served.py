"""Clock and audit of answers that an engine decodes by itself: what can be seen from outside, and no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness.measuring.audit import CHECK_NAMES
from harness.records.schema import Audit, AuditCheck, Measured, Sample

# Bound here as in harness.measuring.clock.
_clock = time.perf_counter
_Found = TypeVar("_Found")

PROMPT, LENGTH = "prompt_tokens_equal", "answer_within_canvas"
WEIGHTS = "weights_unchanged"


class Answered(Measured):
    """One answer of an engine: its ids and the clock; whatever needs a look inside is null.

    ``checks``: of the prompt as the engine read it, and of the answer's length.
    """

    output: list[int]
    checks: list[AuditCheck]

    def measured(self) -> dict[str, Any]:
        """The fields that a stored sample has too."""
        return {name: getattr(self, name) for name in Measured.model_fields}


def timed(call: Callable[[], _Found]) -> tuple[_Found, float]:
    """What ``call`` returns, and the seconds from prompts to ids on the host, everything of the engine's own
    (queues, tokenizing, detokenizing) included.
    """
    started = _clock()
    found = call()
    return found, _clock() - started


def answered(
    ids: Sequence[int], prompt: Sequence[int], told: int | None, new_tokens: int, elapsed: float, rows: int
) -> Answered:
    """One answer of a call of ``rows`` that took ``elapsed`` seconds, which is the latency of each of them.

    ``told``: tokens of the prompt as the engine counts them (null: it does not say).
    """
    same = told is None or told == len(prompt)
    checks = [
        AuditCheck(
            name=PROMPT, passed=same, detail=f"the engine read {told} tokens, the harness wrote {len(prompt)}"
        ),
        AuditCheck(
            name=LENGTH, passed=len(ids) <= new_tokens, detail=f"{len(ids)} ids on a canvas of {new_tokens}"
        ),
    ]
    return Answered(
        output=list(ids),
        checks=checks,
        committed=len(ids),
        time_s=elapsed / rows,
        latency_s=elapsed,
        rows=rows,
    )


def audit_served(samples: Sequence[Sample]) -> Audit:
    """The verdict over an engine's run: the two checks that can be made, and which cannot."""
    failed = [sample for sample in samples if sample.status == "audit_failed"]
    checks = []
    for name in (PROMPT, LENGTH):
        hits = [sample for sample in failed if f"{name}:" in (sample.error or "")]
        detail = (
            f"{len(hits)} of {len(samples)} samples, first document {hits[0].doc_id}: {hits[0].error}"
            if hits
            else ""
        )
        checks.append(AuditCheck(name=name, passed=not hits, detail=detail))
    return Audit(passed=not failed, checks=checks, not_made=[*CHECK_NAMES, WEIGHTS])
