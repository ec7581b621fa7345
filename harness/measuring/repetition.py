"""What a greedy decoder's repeats must have in common: a decoder may keep nothing from one answer to the
next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import median

from harness.records.schema import AuditCheck, Sample

FASTER = 3.0
"""Times that a later pass over the same forwards may be faster than the first; a busy minute of the machine
makes less.
"""


def repetition(samples: Sequence[Sample]) -> list[AuditCheck]:
    """Checks ``deterministic`` and ``passes_alike``; none where nothing that draws no random numbers was
    repeated.

    Repeats are compared within one size of batch: what shares a forward pass may decide the last bit of low
    precision.
    """
    answers: dict[tuple[int, int | None], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.status == "ok" and not sample.random:
            answers[sample.doc_id, sample.rows].append(sample)
    repeated = {
        key: sorted(entries, key=lambda one: one.repeat)
        for key, entries in answers.items()
        if len(entries) > 1
    }
    if not repeated:
        return []
    unequal = sorted(
        {document for (document, _), entries in repeated.items() if len(set(map(_cost, entries))) > 1}
    )
    detail = (
        f"{len(unequal)} of {len({key[0] for key in repeated})} repeated documents differ, first document "
        f"{unequal[0]}"
        if unequal
        else ""
    )
    return [
        AuditCheck(name="deterministic", passed=not unequal, detail=detail),
        *_alike(list(repeated.values())),
    ]


def _cost(sample: Sample) -> Hashable:
    return sample.output_hash, sample.nfe, sample.positions, sample.kv_read


def _alike(repeated: Sequence[Sequence[Sample]]) -> list[AuditCheck]:
    ratios = [
        first.time_s / later.time_s
        for first, *rest in repeated
        for later in rest
        if first.time_s and later.time_s
    ]
    if not ratios:
        return []
    ratio = median(ratios)
    return [
        AuditCheck(
            name="passes_alike",
            passed=ratio <= FASTER,
            detail=f"later passes took 1/{ratio:.2f} of the first one's time (median)",
        )
    ]
