"""Our suites as lm-eval's tasks, without its warnings about stock tasks of the same names."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from harness.lm_eval.model import DiffusionLM, merge_counts

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

SUITES = str(files("suites"))


@contextmanager
def quiet() -> Iterator[None]:
    """Drop lm-eval's line per stock task that one of our suites stands for: it is meant so, and written down
    in each suite's ``repairs``.
    """
    index = logging.getLogger("lm_eval.tasks._index")

    def other(record: logging.LogRecord) -> bool:
        by = str(record.args[1]) if isinstance(record.args, tuple) and len(record.args) > 1 else ""
        return not ("overrides existing task" in str(record.msg) and by.startswith(SUITES))

    index.addFilter(other)
    try:
        yield
    finally:
        index.removeFilter(other)


def task_manager(stock: bool = False) -> TaskManager:
    """lm-eval's task manager over our suites; with ``stock`` over its own tasks too, which takes seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_path=SUITES, include_defaults=stock)


def add_counts(model: DiffusionLM, results: dict[str, Any]) -> dict[str, Any]:
    """``results`` of ``lm_eval.simple_evaluate``, each logged sample with the meter's counts of its answers
    under ``dllm_bench``; changed in place.
    """
    for task, samples in results.get("samples", {}).items():
        merge_counts(model, task, samples)
    return results
