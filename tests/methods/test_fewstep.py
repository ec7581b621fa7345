"""Few-step decoding: the number of forwards is the one asked for, and the tail is greedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.settings import SettingError, build_config
from harness.measuring.audit import finished_length
from harness.records.schema import StopRule
from methods import fewstep, vanilla
from tests.helpers import backbone, canvas

PROMPTS = [[5, 6, 7], list(range(20, 43)), [9], [40] * 11]
NEW = 24


def run(name: str, prompts: list[list[int]], stop_rule: StopRule = "reference", **settings: Any) -> Canvas:
    model = backbone(name)
    page = canvas(model, prompts, NEW, stop_rule)
    fewstep.METHOD.decode(model, page, build_config("fewstep", fewstep.Config, settings))
    return page


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 16, 23, 24])
@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_nfe_is_the_number_of_steps(name: str, steps: int) -> None:
    page = run(name, PROMPTS[:1], steps=steps)
    row = page.rows[0]
    assert (row.nfe, row.masked()) == (steps, [])
    commits = [row.step_map.count(step) for step in range(steps)]
    assert max(commits) - min(commits) <= 1


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "random"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_batch_of_four_equals_single_rows(order: str, temperature: float) -> None:
    settings: dict[str, Any] = {"steps": 6, "order": order, "temperature": temperature}
    together = run("dream_tiny", PROMPTS, **settings)
    for index, prompt in enumerate(PROMPTS):
        model = backbone("dream_tiny")
        spec = model.spec
        alone = Canvas(
            [prompt],
            NEW,
            vocab_size=spec.vocab_size,
            mask_id=spec.mask_id,
            eos_ids=spec.eos_ids,
            stop_rule="reference",
            seeds=[index],
        )
        fewstep.METHOD.decode(model, alone, build_config("fewstep", fewstep.Config, settings))
        assert (alone.rows[0].output, alone.rows[0].step_map) == (
            together.rows[index].output,
            together.rows[index].step_map,
        )


def test_blocks_are_filled_in_order() -> None:
    row = run("dream_tiny", PROMPTS[:1], steps=7, block_length=8).rows[0]
    first, second, third = (row.step_map[start : start + 8] for start in (0, 8, 16))
    assert (row.nfe, set(first), set(second), set(third)) == (7, {0, 1, 2}, {3, 4}, {5, 6})


def test_one_step_is_one_argmax() -> None:
    model = backbone("dream_tiny")
    page = canvas(model, PROMPTS[:1], NEW)
    logits = model.forward(page, Forward((0, 3 + NEW), range(3, 3 + NEW)))
    logits = logits.index_fill(1, torch.tensor([model.spec.mask_id]), float("-inf"))
    assert (
        run("dream_tiny", PROMPTS[:1], steps=1, temperature=1.5).rows[0].output == logits.argmax(-1).tolist()
    )


def test_greedy_tail_decides_the_last_step_only() -> None:
    tail, none = (
        run("dream_tiny", PROMPTS[:1], steps=4, temperature=1.5, greedy_tail=flag).rows[0]
        for flag in (True, False)
    )
    early = [k for k, step in enumerate(tail.step_map) if step < 3]
    assert [tail.output[k] for k in early] == [none.output[k] for k in early]
    assert tail.output != none.output


def test_one_token_per_step_is_vanillas_order() -> None:
    """With as many steps as tokens both commit the single most confident mask at a time."""
    model = backbone("dream_tiny")
    page = canvas(model, PROMPTS[:1], NEW)
    vanilla.METHOD.decode(model, page, build_config("vanilla", vanilla.Config, {"alg": "low_confidence"}))
    assert run("dream_tiny", PROMPTS[:1], steps=NEW).rows[0].output == page.rows[0].output


def test_early_exit_saves_forwards() -> None:
    rows = [run("dream_eos_tiny", [[seed, seed + 1]], "harness", steps=12).rows[0] for seed in range(1, 12)]
    assert any(row.nfe < 12 for row in rows)
    assert all(row.stopped and finished_length(row) > 0 for row in rows)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 25}, "exceed the 24 tokens"),
        ({"steps": 2, "block_length": 8}, "fewer than the 3 blocks"),
        ({"steps": 8, "block_length": 7}, "must divide"),
        ({"order": "best"}, "order=best"),
    ],
)
def test_bad_settings_name_what_to_change(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        run("dream_tiny", PROMPTS[:1], **settings)
