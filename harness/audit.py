"""What every decode call must have kept to. A run that fails is stored, marked and kept out of tables."""

from __future__ import annotations

from collections.abc import Sequence

from harness.canvas import Canvas, Row
from harness.records import Audit, Check, Sample

CHECK_NAMES = ("nfe_equals_hook_count", "prompt_unchanged", "no_mask_left", "ids_match_commits", "nfe_positive")


def audit_rows(
    canvas: Canvas, prompts: Sequence[Sequence[int]], device_ids: Sequence[Sequence[int]], model_calls: int
) -> list[list[Check]]:
    """Checks of every row: prompt, masks, ids, counts.

    ``device_ids``: the canvas as it lies on the device, [rows, width]; ``model_calls``: forward passes that
    a hook on the model itself saw during the call.
    """
    counted = canvas.meter.calls
    common = [Check(name="nfe_equals_hook_count", passed=counted == model_calls, detail=f"metered {counted}, seen {model_calls}")]
    return [common + _row_checks(row, list(prompt), list(ids)) for row, prompt, ids in zip(canvas.rows, prompts, device_ids, strict=True)]


def audit_run(samples: Sequence[Sample]) -> Audit:
    """The verdict over a whole run, one check per name; a decoder that broke the canvas' contract fails by that name."""
    failed = [sample for sample in samples if sample.status == "audit_failed"]
    checks = []
    for name in (*CHECK_NAMES, "canvas_contract"):
        hits = [sample for sample in failed if _blames(sample, name)]
        detail = f"{len(hits)} of {len(samples)} samples, first document {hits[0].doc_id}: {hits[0].error}" if hits else ""
        checks.append(Check(name=name, passed=not hits, detail=detail))
    return Audit(passed=not failed, checks=checks)


def _blames(sample: Sample, name: str) -> bool:
    text = sample.error or ""
    return f"{name}:" in text if name in CHECK_NAMES else not any(f"{known}:" in text for known in CHECK_NAMES)


def _row_checks(row: Row, prompt: list[int], ids: list[int]) -> list[Check]:
    final = finished_length(row)
    holes = [position for position, step in enumerate(row.step_map[:final]) if step < 0]
    region = ids[row.prompt_length : row.end]
    written = [position for position, step in enumerate(row.step_map) if step >= 0]
    stray = [position for position in written if region[position] != row.output[position]]
    behind = [value for value in ids[row.end : row.length] if value != row.fill_id]
    return [
        Check(name="prompt_unchanged", passed=row.prompt == prompt and ids[: len(prompt)] == prompt),
        Check(name="no_mask_left", passed=not holes and final > 0, detail=f"{len(holes)} unwritten positions" if holes else ""),
        Check(name="ids_match_commits", passed=not stray and not behind, detail=f"{len(stray) + len(behind)} ids were not committed"),
        Check(name="nfe_positive", passed=row.nfe > 0, detail=f"nfe {row.nfe}"),
    ]


def finished_length(row: Row) -> int:
    """Length of the answer: up to and including the first end-of-text, else the whole region."""
    eos = row.eos_position
    return row.end - row.prompt_length if eos is None else eos - row.prompt_length + 1
