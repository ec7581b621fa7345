"""Token-for-token parity with the public references: outputs, NFE and the windows of every forward."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest

from harness.decoding.registry import load_method
from harness.decoding.settings import build_config
from tests.helpers import backbone, canvas, golden_cases

METHODS = ("vanilla", "fast_dllm", "d2f", "lopa")
CASES = [case for case in golden_cases() if case["method"] in METHODS]


def run_cases(
    cases: list[dict[str, Any]], merge: bool = True
) -> list[tuple[list[int], int, list[list[int]]]]:
    """Decode cases of one (model, settings) in one batch; (output, nfe, forwards) of each."""
    first = cases[0]
    method = load_method(first["method"]).decoder
    model = backbone(first["model"], first["adapter"], merge)
    fields = method.Config.__dataclass_fields__
    settings = {
        key: value for key, value in first["settings"].items() if key in fields or value not in (None, "none")
    }
    config = build_config(method.name, method.Config, settings)
    page = canvas(model, [case["prompt"] for case in cases], config.max_new_tokens)
    method.decode(model, page, config)
    return [
        (row.output, row.nfe, [list(entry) for entry in page.meter.rows[row.index].forwards])
        for row in page.rows
    ]


def expected(case: dict[str, Any]) -> tuple[list[int], int, list[list[int]]]:
    return case["output"], case["nfe"], case["forwards"]


def test_every_reference_case_is_here() -> None:
    counts = {name: sum(case["method"] == name for case in CASES) for name in METHODS}
    assert counts == {"vanilla": 60, "fast_dllm": 102, "d2f": 78, "lopa": 20}


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_equals_reference(case: dict[str, Any]) -> None:
    assert run_cases([case]) == [expected(case)]


@pytest.mark.parametrize("case", [case for case in CASES if case["adapter"]], ids=lambda case: case["case"])
def test_unmerged_adapter_equals_reference(case: dict[str, Any]) -> None:
    assert run_cases([case], merge=False) == [expected(case)]


def _setting_key(case: dict[str, Any]) -> str:
    return json.dumps([case[key] for key in ("model", "adapter", "method", "settings")], sort_keys=True)


GROUPS = [list(group) for _, group in groupby(sorted(CASES, key=_setting_key), key=_setting_key)]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]['case']}-batch{max(4, len(group))}")
def test_batch_equals_single(group: list[dict[str, Any]]) -> None:
    """Batches of at least four rows; prompts of different lengths where the references have them."""
    rows = (group * 4)[: max(4, len(group))]
    assert run_cases(rows) == [expected(case) for case in rows]
