"""What every decode call must have kept to. A run that fails is stored, marked and kept out of tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.decoding.backbone import Backbone, Watch
from harness.decoding.canvas import Canvas
from harness.decoding.row import Row
from harness.measuring.repetition import repetition
from harness.measuring.untouched import touched
from harness.records.schema import Audit, AuditCheck, Sample

CHECK_NAMES = (
    "nfe_equals_hook_count",
    "positions_equal_hook",
    "prompt_unchanged",
    "no_mask_left",
    "ids_match_commits",
    "nfe_positive",
    "rules_unchanged",
    "clock_intact",
    "harness_untouched",
)
GLASS_CHECKS = ("writes_explained",)
"""Of a decoder behind glass, where the judge sees every answer and every write."""
# A share of the roof above 1 by measurement noise is no finding; twice the roof is forwards that were not
# run.
ROOF_SLACK = 2.0


_CLOCK = time.perf_counter


@dataclass(frozen=True)
class Timing:
    """The outer clock of a decode call, seconds."""

    started: float
    elapsed: float


@dataclass(frozen=True)
class Start:
    """What a decode call was started with; a decoder may replace none of it."""

    parts: dict[str, Any]

    @classmethod
    def of(cls, backbone: Backbone, canvas: Canvas) -> Start:
        parts: dict[str, Any] = {"rules": replace(canvas.rules), "blocks": canvas.blocks}
        parts |= {"rules of rows": [row._rules is canvas.rules for row in canvas.rows]}
        parts |= {
            "spec": backbone.spec,
            "layers": len(backbone._model.model.layers),
            "threads": torch.get_num_threads(),
        }
        parts |= {
            "rows": [id(row) for row in canvas.rows],
            "prompt lengths": [row.prompt_length for row in canvas.rows],
        }
        parts |= {
            "lengths": [row.length for row in canvas.rows],
            "meter": (id(canvas.meter), [id(row) for row in canvas.meter.rows]),
        }
        objects = {"backbone": backbone, "canvas": canvas, "canvas.meter": canvas.meter}
        parts |= {f"attributes of {name}": sorted(vars(part)) for name, part in objects.items()}
        return cls(parts)

    def changed(self, backbone: Backbone, canvas: Canvas) -> list[str]:
        """Names of what is no longer as it was."""
        now = Start.of(backbone, canvas).parts
        return [name for name, value in self.parts.items() if now[name] != value]


def audit_rows(
    canvas: Canvas,
    prompts: Sequence[Sequence[int]],
    device_ids: Sequence[Sequence[int]],
    seen: Watch,
    changed: Sequence[str],
    timing: Timing,
) -> list[list[AuditCheck]]:
    """Checks of every row: prompt, masks, ids, counts, rules, clock.

    ``device_ids``: the canvas as it lies on the device, [rows, width]; ``seen``: the forward passes that a
    hook on the model itself saw; ``changed``: what Start.changed found.
    """
    common = [
        *_count_checks(canvas, seen),
        _listed("rules_unchanged", list(changed)),
        _clock_check(canvas, timing),
    ]
    common.append(_listed("harness_untouched", touched()))
    return [
        common + _row_checks(row, list(prompt), list(ids))
        for row, prompt, ids in zip(canvas.rows, prompts, device_ids, strict=True)
    ]


def _listed(name: str, faults: list[str]) -> AuditCheck:
    return AuditCheck(name=name, passed=not faults, detail=", ".join(faults[:5]))


def _count_checks(canvas: Canvas, seen: Watch) -> list[AuditCheck]:
    """The meter against the hook on the first layer: calls, and the positions that entered it, for one row
    pass by pass.
    """
    rows, counted = canvas.meter.rows, canvas.meter.calls
    fed, true_fed = [sum(row.fed) for row in rows], [count * length for count, length in seen.shapes]
    exact = len(rows) > 1 or rows[0].fed == true_fed
    keys = all(sum(max(cached, query) for query, cached, _ in row.forwards) <= row.kv_read for row in rows)
    return [
        AuditCheck(
            name="nfe_equals_hook_count",
            passed=counted == seen.calls and all(len(row.fed) == row.nfe for row in rows),
            detail=f"metered {counted}, seen {seen.calls}",
        ),
        AuditCheck(
            name="positions_equal_hook",
            passed=sum(fed) == sum(true_fed) and exact and keys,
            detail=f"metered {sum(fed)}, seen {sum(true_fed)}",
        ),
    ]


def _clock_check(canvas: Canvas, timing: Timing) -> AuditCheck:
    faults = [] if time.perf_counter is _CLOCK else ["time.perf_counter was replaced"]
    if canvas.meter.started != timing.started:
        faults.append("meter.started was changed")
    if not 0 <= canvas.meter.forward_s <= timing.elapsed:
        faults.append(f"forward_s {canvas.meter.forward_s:.6f} of {timing.elapsed:.6f} s")
    marks = [
        mark for row in canvas.meter.rows for mark in (row.first_block_s, row.finished_s) if mark is not None
    ]
    if any(not 0 <= mark <= timing.elapsed for mark in marks):
        faults.append("a row's times lie outside the call")
    return _listed("clock_intact", faults)


def audit_run(
    samples: Sequence[Sample],
    roof_share: float | None = None,
    *,
    greedy: bool = False,
    more: Sequence[AuditCheck] = (),
) -> Audit:
    """The verdict over a whole run, one check per name; a decoder that broke the canvas' contract fails by
    that name.

    ``roof_share``: the run's speed as a share of the device's roofline (harness.measuring.roofline), if it
    was measured. ``greedy``: at temperature 0 repeats must be equal and cost the same, unless the decoder
    drew from its row's random stream. ``more``: checks of the run as a whole. What fails only behind the
    glass is listed where it failed.
    """
    failed = [sample for sample in samples if sample.status == "audit_failed"]
    checks = []
    for name in (*CHECK_NAMES, "canvas_contract", *GLASS_CHECKS):
        hits = [sample for sample in failed if _blames(sample, name)]
        if name in GLASS_CHECKS and not hits:
            continue
        detail = (
            f"{len(hits)} of {len(samples)} samples, first document {hits[0].doc_id}: {hits[0].error}"
            if hits
            else ""
        )
        checks.append(AuditCheck(name=name, passed=not hits, detail=detail))
    if roof_share is not None:
        checks.append(
            AuditCheck(
                name="within_roofline",
                passed=roof_share <= ROOF_SLACK,
                detail=f"{roof_share:.0%} of the roofline",
            )
        )
    if greedy:
        checks += repetition(samples)
    checks += more
    return Audit(passed=not failed and all(check.passed for check in checks), checks=checks)


def _blames(sample: Sample, name: str) -> bool:
    text = sample.error or ""
    known = (*CHECK_NAMES, *GLASS_CHECKS)
    return f"{name}:" in text if name in known else not any(f"{one}:" in text for one in known)


def _row_checks(row: Row, prompt: list[int], ids: list[int]) -> list[AuditCheck]:
    final = finished_length(row)
    steps = row.step_map
    holes = [
        position for start, stop in row.finals for position in range(start, stop) if not row.written(position)
    ]
    region = ids[row.prompt_length : row.end]
    # Unwritten positions must hold the fill id: a token put there behind the canvas would steer the model
    # unseen.
    stray = [k for k, (here, told) in enumerate(zip(region, row.output, strict=True)) if here != told]
    stray += [
        k for k, step in enumerate(steps) if step >= row.nfe or (step < 0 and row.output[k] != row.fill_id)
    ]
    behind = [value for value in ids[row.end :] if value != row.fill_id]
    return [
        AuditCheck(name="prompt_unchanged", passed=row.prompt == prompt and ids[: len(prompt)] == prompt),
        AuditCheck(
            name="no_mask_left",
            passed=not holes and final > 0,
            detail=f"{len(holes)} unwritten positions" if holes else "",
        ),
        AuditCheck(
            name="ids_match_commits",
            passed=not stray and not behind,
            detail=f"{len(stray) + len(behind)} ids were not committed",
        ),
        AuditCheck(name="nfe_positive", passed=row.nfe > 0, detail=f"nfe {row.nfe}"),
    ]


def finished_length(row: Row) -> int:
    """Length of the answer: of each block up to and including its first end-of-text, else the whole block."""
    return sum(stop - start for start, stop in row.finals)
