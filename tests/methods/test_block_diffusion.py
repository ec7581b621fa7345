"""Block diffusion against every case of its public references: ids, steps, NFE and the windows of every
forward.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from itertools import groupby
from typing import Any

import pytest

from harness.decoding.canvas import Canvas
from harness.records.schema import StopRule
from methods.block_diffusion.decoder import METHOD
from methods.block_diffusion.plan import Config, linear_schedule
from tests.conftest import GOLDEN
from tests.helpers import CPU, backbone

CASES: list[dict[str, Any]] = [json.loads(line) for line in (GOLDEN / "block_diffusion.jsonl").open()]
RENAMED = {"editing_threshold": "edit_threshold", "max_post_edit_steps": "max_post_steps"}
PRESETS = tuple(dict.fromkeys(case["settings"]["preset"] for case in CASES))


def config_of(case: dict[str, Any]) -> Config:
    """The case's settings under our names. Only SDAR's and bd3lm's need a word: where the confidence is
    taken, and their rule's name.
    """
    settings = {RENAMED.get(key, key): value for key, value in case["settings"].items()}
    settings["top_k"] = settings.get("top_k") or None
    if settings["preset"] == "sdar":
        settings["confidence"] = "filtered"
    if settings["preset"] == "bd3lm":
        settings["alg"] = "low_confidence_static"
    if settings.pop("use_block_cache", False):
        settings["cache"] = "block"
    return Config(**{field.name: settings[field.name] for field in fields(Config) if field.name in settings})


def canvas_of(cases: list[dict[str, Any]], stop_rule: StopRule | None = None) -> Canvas:
    """A canvas as long as the reference makes its own: up to the end of a block, for Fast-dLLM v2 one token
    more.
    """
    settings, prompt = cases[0]["settings"], len(cases[0]["prompt"])
    size, new = settings["block_size"], settings["max_new_tokens"]
    if settings["preset"] == "fast_dllm_v2":
        new = (prompt // size + new // size) * size + 1 - prompt
    elif settings["preset"] != "bd3lm":
        new = -(-(prompt + new) // size) * size - prompt
    prompts = [case["prompt"] for case in cases]
    rule = stop_rule or ("harness" if settings.get("function") == "generate" else "reference")
    return Canvas(
        prompts, new, vocab_size=200, mask_id=198, eos_ids=settings["stop_ids"], device=CPU, stop_rule=rule
    )


def forwards_of(case: dict[str, Any]) -> list[list[int]]:
    """The forwards to expect. BD3LM runs the padded prefix anew at each block, where we append what is new of
    it.
    """
    if case["settings"]["preset"] != "bd3lm":
        return case["forwards"]
    padding, stored, mine = case["settings"]["left_padding"], 0, []
    for query, cached, kept in case["forwards"]:
        if kept:
            mine.append([query - padding - stored, stored, query - padding - stored])
            stored = query - padding
        else:
            mine.append([query, cached - padding, 0])
    return mine


def check(case: dict[str, Any], canvas: Canvas, index: int) -> None:
    row, length = canvas.rows[index], len(case["output"])
    written = sum(step is not None for step in case["steps"])
    assert row.output[:written] == case["output"][:written]
    assert row.step_map[:written] == case["steps"][:written]
    # Behind a stop token the reference pads what it had decoded; nobody else writes there.
    assert case["output"][written:] == [196] * (length - written)
    assert row.nfe == case["nfe"]
    assert [list(entry) for entry in canvas.meter.rows[index].forwards] == forwards_of(case)
    if canvas.rules.stop_rule == "reference":
        assert len(row.output) == length
    else:
        assert row.finals[0][1] == row.prompt_length + length


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_reference(preset: str) -> None:
    for case in (case for case in CASES if case["settings"]["preset"] == preset):
        canvas = canvas_of([case])
        METHOD.decode(backbone(case["model"]), canvas, config_of(case))
        check(case, canvas, 0)


@pytest.mark.parametrize("preset", ["llada2_edit", "joint_threshold"])
def test_the_early_exit_waits_for_the_last_blocks_edits(preset: str) -> None:
    """Under the harness' stop rule: the reference's ids and passes, but for the pass that stores a last block
    for nothing.
    """
    edited = 0
    for case in [case for case in CASES if case["settings"]["preset"] == preset][::3]:
        canvas = canvas_of([case], "harness")
        METHOD.decode(backbone(case["model"]), canvas, config_of(case))
        row, written = canvas.rows[0], sum(step is not None for step in case["steps"])
        assert row.output[:written] == case["output"][:written]
        assert row.step_map[:written] == case["steps"][:written]
        assert row.nfe == case["nfe"] - (preset == "joint_threshold")
        edited += max(row.step_map) == row.nfe - 2
    assert edited > 1


def _shape(case: dict[str, Any]) -> str:
    settings = {
        key: value for key, value in case["settings"].items() if key not in ("schedules", "left_padding")
    }
    return json.dumps(
        [case["model"], settings, len(case["prompt"]) if settings["preset"] != "bd3lm" else 0], sort_keys=True
    )


GROUPS = [list(group) for _, group in groupby(sorted(CASES, key=_shape), key=_shape)][::4]


def test_batch_equals_single() -> None:
    """Batches of at least four rows; bd3lm's with prompts of several lengths."""
    mixed = 0
    for group in GROUPS:
        rows = (group * 4)[: max(4, len(group))]
        canvas = canvas_of(rows)
        METHOD.decode(backbone(group[0]["model"]), canvas, config_of(group[0]))
        for index, case in enumerate(rows):
            check(case, canvas, index)
        mixed += len({len(case["prompt"]) for case in group}) > 1
    assert mixed > 1
    assert {group[0]["settings"]["preset"] for group in GROUPS} == set(PRESETS)


def test_every_case_is_here() -> None:
    assert Counter(case["settings"]["preset"] for case in CASES).total() == 402


def test_schedules_are_the_references() -> None:
    seen = 0
    for case in (case for case in CASES if case["settings"]["preset"] == "bd3lm"):
        settings = case["settings"]
        blocks = len(settings["schedules"])
        passes = -(-settings["steps"] // blocks)
        for index, schedule in enumerate(settings["schedules"]):
            places = min(settings["block_size"], settings["max_new_tokens"] - index * settings["block_size"])
            assert linear_schedule(places, passes) == schedule
            seen += 1
    assert seen > 100
