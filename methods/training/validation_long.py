"""Validation of nano-long: its suites, on longer canvases and on the short ones of the parallel tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tokenizers import Tokenizer

from harness.model.transformer import Transformer
from harness.sandbox import Jail
from methods.training.validation import (
    Item,
    Mode,
    Validation,
    by_mode,
    measure,
    opened,
    right_number,
    right_program,
)
from suites.generators import Split, frozen, parallel

CANVAS = 256
PARALLEL_CANVAS = 16
SUITES = tuple(suite for suite in frozen.DRAWS if suite.startswith(("long", "parallel")))


def right_parallel(item: Item, answer: str, jail: Jail) -> bool:
    """Whether the answer solves an item of a parallel task."""
    return parallel.is_correct(item, answer)


def task_of(suite: str, split: Split, count: int, canvas: int) -> Validation:
    """The first ``count`` items of a suite; a quarter of them of a parallel task, whose canvas is its own."""
    if suite.startswith("parallel"):
        return Validation(
            suite, frozen.load(suite, split)[: max(1, count // 4)], right_parallel, PARALLEL_CANVAS
        )
    return Validation(
        suite,
        frozen.load(suite, split)[:count],
        right_number if suite == "long-gsm" else right_program,
        canvas,
    )


def score_long(
    model: Transformer,
    tokenizer: Tokenizer,
    modes: Sequence[Mode],
    count: int = 64,
    split: Split = "validation",
    canvas: int = CANVAS,
) -> dict[str, float]:
    """pass@1 (``long-gsm/block-1``) and forwards (``long-gsm/block-1/nfe``) on the first ``count`` items per
    suite and mode.

    A parallel task counts a quarter of the items each; ``parallel`` is the mean of the six. ``canvas``: of
    the long suites.
    """
    tasks = [task_of(suite, split, count, canvas) for suite in SUITES]
    figures = measure(opened(model, tokenizer), tasks, partial(by_mode, modes))
    for mode in modes:
        for end in ("", "/nfe"):
            found = [figures[f"parallel-{task}/{mode}{end}"] for task in parallel.TASKS]
            figures[f"parallel/{mode}{end}"] = round(sum(found) / len(found), 3)
    return figures
