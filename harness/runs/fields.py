"""The fields of a stored sample that come from decoding."""

from __future__ import annotations

from typing import Any

from harness.measuring.clock import Decoded
from harness.measuring.served import Answered
from harness.model.text import pieces
from harness.records.files import digest


def measured(row: Decoded | Answered | None, tokenizer: Any) -> dict[str, Any]:
    """The fields of a Sample that come from decoding, null where nothing was decoded."""
    if row is None:
        return {"output_ids": [], "output_hash": digest([])}
    if isinstance(row, Answered):
        return row.measured() | {"output_ids": row.output, "output_hash": digest(row.output)}
    end = 1 + max((place for place, step in enumerate(row.step_map) if step >= 0), default=-1)
    return {
        **row.measured(),
        "output_ids": row.output[:end],
        "output_hash": digest(row.output[:end]),
        "pieces": pieces(tokenizer, row.output[:end]),
        "step_map": row.step_map[:end],
        "blocks": row.spans if len(row.spans) > 1 else [],
        "confidence": [None if value is None else round(value, 4) for value in row.confidence[:end]],
    }
