"""Scoring of the suites whose answers are numbers or formulas."""

from __future__ import annotations

import re
from typing import Any

FINAL_NUMBER = re.compile(r"####\s*(-?[0-9][0-9.,]*)")


def final_number(text: str) -> str | None:
    """The number after the first `####`, without thousands commas and a final full stop; None when there is none."""
    match = FINAL_NUMBER.search(text)
    return match.group(1).replace(",", "").rstrip(".") if match else None


def nano_gsm(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results` of nano-gsm: exact match of the final number."""
    return {"exact_match": float(final_number(results[0]) == str(doc["answer"]))}
