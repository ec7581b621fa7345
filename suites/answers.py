"""Scoring of the suites whose answers are numbers or formulas."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

from harness.model.text import behind_marker
from suites.generators.parallel import is_correct

FINAL_NUMBER = re.compile(r"####\s*(-?[0-9][0-9.,]*)")


def answer_blocks(resps: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """lm-eval filter: the answer block of texts that have a reasoning block in front of it."""
    return [[behind_marker(text) for text in texts] for texts in resps]


def final_number(text: str) -> str | None:
    """The number after the first `####`, without thousands commas and a final full stop; None when there is
    none.
    """
    match = FINAL_NUMBER.search(text)
    return match.group(1).replace(",", "").rstrip(".") if match else None


def nano_gsm(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results` of nano-gsm: exact match of the final number."""
    return {"exact_match": float(final_number(results[0]) == str(doc["answer"]))}


def parallel(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's `process_results` of the parallel suites: whether the whole answer follows the task's
    rule.
    """
    return {"exact_match": float(is_correct(doc, results[0]))}


def minerva(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """The stock scoring of the MATH suites: exact match after normalisation, and math_verify.

    Its time limits are alarm signals, which exist in the main thread only; elsewhere every formula that needs
    sympy would count as wrong without a word. Another thread therefore hands the work to a process of its
    own.
    """
    if threading.current_thread() is threading.main_thread():
        return _stock_minerva(doc, results)
    return _math_process().submit(_stock_minerva, doc, results).result()


def _stock_minerva(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    from lm_eval.tasks.minerva_math.utils import process_results

    return process_results(doc, results)


@cache
def _math_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))
