"""LoPA beyond parity: what-if passes, rounds of the reference, and settings whose result is known without
it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.settings import SettingError, build_config
from methods import d2f, lopa
from tests.helpers import backbone, canvas, golden_cases

CASES = [case for case in golden_cases() if case["method"] == "lopa"]
PROMPT = [5, 6, 7]


def decoded(case: dict[str, Any], **changes: Any) -> Canvas:
    """The canvas of a golden case after LoPA with some settings changed."""
    model = backbone(case["model"], case["adapter"])
    config = build_config("lopa", lopa.Config, {**case["settings"], **changes})
    page = canvas(model, [case["prompt"]], config.max_new_tokens)
    lopa.METHOD.decode(model, page, config)
    return page


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_rounds_equal_reference(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is one choice among branches; the reference also counts the last one, which runs nothing."""
    rounds = 0
    choose = lopa.choose

    def counted(seen: list[lopa.Outlook], config: lopa.Config) -> int:
        nonlocal rounds
        rounds += 1
        return choose(seen, config)

    monkeypatch.setattr(lopa, "choose", counted)
    decoded(case)
    assert rounds + 1 == case["rounds"]


@pytest.mark.parametrize(
    "case",
    [case for case in golden_cases() if case["method"] == "d2f" and case["model"].startswith("dream")][::6],
)
def test_one_branch_with_block_causal_attention_is_d2f(case: dict[str, Any]) -> None:
    model = backbone(case["model"], case["adapter"])
    settings = {
        key: value for key, value in case["settings"].items() if key in d2f.Config.__dataclass_fields__
    }
    config = build_config("lopa", lopa.Config, {**settings, "branching_factor": 0, "full_attention": False})
    page = canvas(model, [case["prompt"]], config.max_new_tokens)
    lopa.METHOD.decode(model, page, config)
    assert (page.rows[0].output, page.rows[0].nfe) == (case["output"], case["nfe"])


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case["settings"]["full_attention"]][:4],
    ids=lambda case: case["case"],
)
def test_forced_base_gives_d2fs_tokens_at_lopas_cost(case: dict[str, Any]) -> None:
    """Block-causal caching is exact, so branches that never win leave no trace but their forwards."""
    alone = decoded(case, branching_factor=0)
    forced = decoded(case, verification_force_base_winner=True)
    assert forced.rows[0].output == alone.rows[0].output
    assert forced.rows[0].nfe > alone.rows[0].nfe


def test_every_branch_is_metered() -> None:
    page = decoded(CASES[3])
    meter = page.meter.rows[0]
    assert page.meter.calls == meter.nfe == len(CASES[3]["forwards"])
    assert meter.positions == sum(query for query, _, _ in CASES[3]["forwards"])


@pytest.mark.parametrize(
    "changes",
    [
        {"branch_verification_mode": False},
        {"base_branch_competition": False},
        {"branch_topp": 0.5},
        {"selection_conf_alpha": 0.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_selection_settings_fill_the_canvas(changes: dict[str, Any]) -> None:
    row = decoded(CASES[3], **changes).rows[0]
    assert row.masked() == []
    assert len(row.output) == 64


def test_only_one_surviving_branch_is_offered() -> None:
    with pytest.raises(SettingError, match="max_branches_kept"):
        build_config("lopa", lopa.Config, {"max_branches_kept": 2})


def test_assumed_tokens_act_like_written_ones_and_are_not_written() -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [PROMPT, [9, 8, 7, 6]], 8)
    before = page.ids.clone()
    plain = Forward((0, 11), [5, 7])
    guessed = model.forward_rows(page, {0: Forward((0, 11), [5, 7], assume={4: 20, 6: 21}), 1: plain})
    assert torch.equal(page.ids, before)
    assert page.rows[0].output == [page.rules.fill_id] * 8
    untouched = model.forward(page, plain, row=1)
    page.rows[0].commit([4, 6], [20, 21])
    torch.testing.assert_close(guessed[0], model.forward(page, plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guessed[1], untouched, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adopted", [0, 1])
def test_only_the_adopted_trial_stays_in_the_cache(adopted: int) -> None:
    model = backbone("dream_tiny")
    guesses = ({4: 20}, {4: 30})
    page = canvas(model, [PROMPT], 8)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, 3), [3], keep=(0, 3)), cache)
    for guess in guesses:
        model.forward(page, Forward((3, 11), [5], keep=(3, 6), assume=guess, trial=True), cache)
        assert cache.length(0) == 3
    got = model.forward(page, Forward((6, 11), [6, 8], adopt=adopted), cache)
    straight = model.new_cache(page)
    model.forward(page, Forward((0, 3), [3], keep=(0, 3)), straight)
    model.forward(page, Forward((3, 11), [5], keep=(3, 6), assume=guesses[adopted]), straight)
    torch.testing.assert_close(got, model.forward(page, Forward((6, 11), [6, 8]), straight))
    assert page.meter.rows[0].forwards[1:4] == [(8, 3, 3), (8, 3, 3), (5, 6, 0)]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Forward((3, 8), [4], assume={9: 20}), "can be assumed"),
        (Forward((3, 8), [4], assume={4: 256}), "can be assumed"),
        (Forward((0, 8), [4], assume={2: 20}, cached=False), "can be assumed"),
        (Forward((3, 8), [4], adopt=0), "0 trials"),
        (Forward((0, 8), [4], keep=(0, 8), trial=True), "overwrites the stored"),
        (Forward((0, 8), [4], cached=False, trial=True), "need a store"),
    ],
)
def test_misused_trials_are_refused(request_: Forward, text: str) -> None:
    model = backbone("dream_tiny")
    page = canvas(model, [PROMPT], 8)
    cache = model.new_cache(page)
    model.forward(page, Forward((0, 3), [3], keep=(0, 3)), cache)
    with pytest.raises(ValueError, match=text):
        model.forward(page, request_, cache)
