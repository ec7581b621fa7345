"""Parity of further decoders and caches with the authors' code or the largest third-party collection: ids,
NFE, forwards, steps.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from typing import Any

import pytest

from harness.decoding.registry import load_method, method_names
from harness.decoding.row import Row
from harness.decoding.settings import build_config
from tests.conftest import GOLDEN
from tests.helpers import backbone, canvas

MORE = GOLDEN / "more"


@cache
def all_cases() -> tuple[dict[str, Any], ...]:
    with gzip.open(MORE / "decoding_more.jsonl.gz", "rt") as file:
        return tuple(json.loads(line) for line in file)


CASES = [case for case in all_cases() if case["method"] in method_names()]


def settings_of_case(case: dict[str, Any]) -> dict[str, Any]:
    """As the command line takes them: the frequency table is a file, a null for a setting that a method lacks
    says nothing.
    """
    fields = load_method(case["method"]).decoder.Config.__dataclass_fields__
    settings = {
        key: value for key, value in case["settings"].items() if key in fields or value not in (None, "none")
    }
    if case["method"] == "pc_sampler":
        settings["token_freq"] = str(MORE / "token_freq.json")
    return settings


def decode(cases: list[dict[str, Any]]) -> list[Row]:
    """Decode cases of one (model, settings) in one batch."""
    method = load_method(cases[0]["method"]).decoder
    model = backbone(cases[0]["model"])
    config = build_config(method.name, method.Config, settings_of_case(cases[0]))
    page = canvas(model, [case["prompt"] for case in cases], config.max_new_tokens)
    method.decode(model, page, config)
    return page.rows


def compare(case: dict[str, Any], row: Row) -> None:
    meter = row._meter.rows[row.index]
    assert row.output == case["output"]
    assert row.nfe == case["nfe"]
    if "steps" in case:
        # A place that stays a mask was written by no forward here; the reference names the one that took its
        # token back.
        assert row.step_map == [
            step if row.written(row.prompt_length + k) else -1 for k, step in enumerate(case["steps"])
        ]
    assert [list(entry) for entry in meter.forwards] == case["forwards"]
    if "queries" in case:
        assert json.loads(json.dumps(meter.queries)) == case["queries"]


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_equals_reference(case: dict[str, Any]) -> None:
    compare(case, decode([case])[0])


def _alike(case: dict[str, Any]) -> str:
    return json.dumps([case["model"], case["method"], case["settings"]], sort_keys=True)


GROUPS = [[case for case in CASES if _alike(case) == key] for key in dict.fromkeys(map(_alike, CASES))]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0]["case"])
def test_batch_of_four_equals_single(group: list[dict[str, Any]]) -> None:
    """Four rows, prompts of two lengths: a row of a batch is decoded as it would be alone."""
    first = group[0]
    short = {**first, "prompt": first["prompt"][: max(2, len(first["prompt"]) // 2)]}
    alone = decode([short])[0]
    rows = decode([first, short, first, short])
    for row in (rows[0], rows[2]):
        compare(first, row)
    for row in (rows[1], rows[3]):
        assert (row.output, row.step_map) == (alone.output, alone.step_map)


def test_every_reference_case_is_run() -> None:
    assert len(all_cases()) == 261
    assert [case["case"] for case in all_cases() if case not in CASES] == []
