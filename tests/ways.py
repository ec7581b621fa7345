"""Every golden case decoded in every way that must give the same answer: alone, packed with a row of another
length, continuous, with each implementation of attention, with traced layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.decoding.decoder import RowDecoder
from harness.decoding.kernels import Flash, Flex, Implementation, Sdpa
from harness.decoding.registry import load_method
from harness.decoding.row import Row
from harness.decoding.settings import build_config
from harness.model.adapter import Adapter
from harness.model.compiled import compile_layers
from harness.model.load import load_transformer
from tests.conftest import GOLDEN
from tests.decoding.test_kernels import varlen, with_kernel
from tests.helpers import CPU, backbone, canvas, golden_cases
from tests.methods import test_block_diffusion as blocks
from tests.methods import test_golden_more as more

Case = dict[str, Any]
Outcome = tuple[list[int], int, list[int], list[tuple[int, int, int]]]
"""Ids, NFE, step map, forwards."""


def goldens() -> list[Case]:
    """All cases, those of one model after each other."""
    return sorted((*golden_cases(), *more.all_cases(), *blocks.CASES), key=_weights)


def _weights(case: Case) -> tuple[str, str]:
    return case["model"], case.get("adapter") or ""


def _blocky(case: Case) -> bool:
    return "preset" in case["settings"] and case in blocks.CASES


def partner(case: Case) -> list[int]:
    """A shorter prompt for which the case's settings hold: on a block-diffusion model by one whole block."""
    prompt = case["prompt"]
    if not _blocky(case):
        return prompt[: max(2, len(prompt) // 2)]
    size = case["settings"]["block_size"]
    return prompt[: len(prompt) - size] if len(prompt) > size else prompt


def decoder_of(case: Case) -> tuple[Any, Any]:
    """The decoder and its Config."""
    if _blocky(case):
        return blocks.METHOD, blocks.config_of(case)
    decoder = load_method(case["method"]).decoder
    return decoder, build_config(decoder.name, decoder.Config, more.settings_of_case(case))


def rows_of(case: Case, model: Backbone, prompts: Sequence[list[int]], live: int | None = None) -> list[Row]:
    """The rows of one decode call, ``live`` at a time; all have the random stream of the first."""
    decoder, config = decoder_of(case)
    page: Canvas = (
        blocks.canvas_of([{**case, "prompt": prompt} for prompt in prompts])
        if _blocky(case)
        else canvas(model, list(prompts), config.max_new_tokens)
    )
    page.live = len(prompts) if live is None else live
    for row in page.rows:
        row._seed = 0
    decoder.decode(model, page, config)
    return page.rows


def outcome(row: Row) -> Outcome:
    return row.output, row.nfe, row.step_map, row._meter.rows[row.index].forwards


def agrees(case: Case, row: Row) -> bool:
    """Whether a row is what the reference decoded: ids, NFE and forwards."""
    ids, nfe, _, forwards = outcome(row)
    told = [list(entry) for entry in forwards]
    if not _blocky(case):
        return (ids, nfe, told) == (case["output"], case["nfe"], case["forwards"])
    written = sum(step is not None for step in case["steps"])
    windows = blocks.forwards_of(case)
    return (ids[:written], nfe, told) == (case["output"][:written], case["nfe"], windows)


def eager(case: Case) -> Backbone:
    return backbone(case["model"], case.get("adapter"))


@cache
def _traced(model: str, adapter: str) -> Backbone:
    # The programs of all models are one function's: past a limit torch would run it uncompiled.
    torch._dynamo.reset()
    transformer = load_transformer(GOLDEN / model, torch.float32, CPU)
    if adapter:
        Adapter(GOLDEN / adapter).merge(transformer)
    compile_layers(transformer, CPU, backend="eager")
    return Backbone(transformer, CPU, torch.float32)


@cache
def _kernel(name: str) -> Implementation:
    return Flex(compiled=False) if name == "flex" else Flash(varlen, Sdpa())


def _with(name: str) -> Callable[[Case], list[Row]]:
    return lambda case: rows_of(
        case, with_kernel(eager(case), _kernel(name)), [case["prompt"], partner(case)]
    )


def _continuous(case: Case) -> list[Row] | None:
    """None for a decoder whose loop is its own."""
    if type(decoder_of(case)[0]).decode is not RowDecoder.decode:
        return None
    long, short = case["prompt"], partner(case)
    rows = rows_of(case, eager(case), [short, long, long, short], live=2)
    return [rows[2], rows[3], rows[1], rows[0]]


WAYS: dict[str, Callable[[Case], list[Row] | None]] = {
    "packed": lambda case: rows_of(case, eager(case), [case["prompt"], partner(case)]),
    "continuous": _continuous,
    "flex": _with("flex"),
    "flash": _with("flash"),
    "traced": lambda case: rows_of(case, _traced(*_weights(case)), [case["prompt"]]),
}
"""The rows of a way: the case's own prompt and its partner's in turns; None: it has no such way."""


def different(case: Case, ways: Sequence[str] = tuple(WAYS)) -> dict[str, bool | None]:
    """By name whether a way's answers differ from those that the rows get alone (None: no such way); under
    ``eager`` whether the answer alone differs from the reference's.
    """
    alone = [rows_of(case, eager(case), [prompt])[0] for prompt in (case["prompt"], partner(case))]
    found: dict[str, bool | None] = {"eager": not agrees(case, alone[0])}
    wanted = [outcome(row) for row in alone]
    for way in ways:
        rows = WAYS[way](case)
        found[way] = (
            None if rows is None else any(outcome(row) != wanted[k % 2] for k, row in enumerate(rows))
        )
    return found
