"""Lockstep: forwards per step, what A may see, pace and caps, caching, early exit, hooks, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from harness.decoding.forward import Forward
from harness.decoding.settings import SettingError, build_config
from harness.engine.loader import load
from harness.measuring.clock import Decoded, decode
from harness.model.spec import CheckpointError
from harness.records.schema import Sample, StopRule
from harness.statistics.blocks import block_stats
from methods.lockstep import METHOD, Config, Lockstep
from tests.conftest import GOLDEN
from tests.helpers import backbone, canvas

PROMPTS = [[5, 6, 7], list(range(20, 43)), [9], [40] * 11]
NEW, R_LENGTH = 24, 18
DECODER: Any = METHOD
NEVER: dict[str, Any] = {"tau_r": 1.0, "tau_a": 1.0}


def run(
    name: str, prompts: list[list[int]], stop_rule: StopRule = "reference", new: int = NEW, **settings: Any
) -> list[Decoded]:
    """Decoded rows, every one of them audited."""
    config = build_config("lockstep", Config, settings)
    rows = decode(backbone(name), DECODER, config, prompts, new, stop_rule=stop_rule)
    assert [check for row in rows for check in row.checks if not check.passed] == []
    return rows


def facts(row: Decoded) -> tuple[list[int], list[int], list[tuple[int, int, int]]]:
    return row.output, row.step_map, row.forwards


@pytest.mark.parametrize(("mode", "per_step"), [("jacobi", 1), ("gauss_seidel", 2)])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_forwards_per_step(name: str, steps: int, mode: str, per_step: int) -> None:
    row = run(name, PROMPTS[:1], mode=mode, steps=steps, **NEVER)[0]
    assert row.nfe == steps * per_step == len(row.forwards)
    r, a = row.step_map[:R_LENGTH], row.step_map[R_LENGTH:]
    assert [sum(step // per_step == k for step in r) for k in range(steps)] == [R_LENGTH // steps] * steps
    assert [sum(step // per_step == k for step in a) for k in range(steps)] == [6 // steps] * steps
    if mode == "gauss_seidel":
        assert {step % 2 for step in r} == {0}
        assert {step % 2 for step in a} == {1}


def test_gauss_seidel_answer_sees_tokens_of_the_same_step() -> None:
    """The logits A commits from equal those of the canvas with this step's R tokens, not of the one
    without.
    """
    model = backbone("dream_tiny")
    page = canvas(model, PROMPTS[:1], NEW)
    row = page.rows[0]
    program = METHOD.decode_row(row, model.spec, Config(mode="gauss_seidel", steps=3, tau_r=1.0, tau_a=1.0))
    first = next(program)
    assert max(first.at) < 3 + R_LENGTH
    second = program.send(model.forward(page, first))
    assert min(second.at) >= 3 + R_LENGTH
    new = [position for position in range(3, 3 + R_LENGTH) if row.written(position)]
    assert len(new) == 6
    got = model.forward(page, second)
    without = model.forward(page, Forward(second.feed, second.at, assume=dict.fromkeys(new, row.fill_id)))
    assert (got - without).abs().max() > 0.1
    program.send(got)
    written = [position for position in second.at if row.written(position)]
    at = list(second.at)
    assert [row.token(p) for p in written] == [
        int(got[at.index(p), : model.spec.mask_id].argmax()) for p in written
    ]


def first_step(
    mode: Literal["jacobi", "gauss_seidel"], roll: int
) -> tuple[list[int], list[int], Tensor | None]:
    """A's and R's tokens after the first step, and A's logits if it had a forward; R's logits are rolled by
    ``roll`` ids.
    """
    model = backbone("dream_tiny")
    page = canvas(model, PROMPTS[:1], NEW)
    row = page.rows[0]
    program = METHOD.decode_row(row, model.spec, Config(mode=mode, steps=3, tau_r=1.0, tau_a=1.0))
    request = next(program)
    logits = model.forward(page, request)
    in_r = torch.tensor([position < 3 + R_LENGTH for position in request.at])
    request = program.send(torch.where(in_r.unsqueeze(1), logits.roll(roll, -1), logits))
    answer = None
    if mode == "gauss_seidel":
        answer = model.forward(page, request)
        program.send(answer)
    tokens = [row.token(position) for position in range(3, 3 + NEW)]
    return tokens[R_LENGTH:], tokens[:R_LENGTH], answer


def test_other_reasoning_tokens_change_the_answers_logits_in_gauss_seidel_only() -> None:
    """An intervention: other logits for R alone, hence other R tokens, in the step in which A commits too."""
    answer, reasoning, _ = first_step("jacobi", 0)
    other_answer, other_reasoning, _ = first_step("jacobi", 7)
    assert reasoning != other_reasoning
    assert answer == other_answer
    _, reasoning, logits = first_step("gauss_seidel", 0)
    _, other_reasoning, other_logits = first_step("gauss_seidel", 7)
    assert reasoning != other_reasoning
    assert logits is not None
    assert other_logits is not None
    assert (logits - other_logits).abs().max() > 0.1


SETTINGS: list[dict[str, Any]] = [
    {},
    {"mode": "gauss_seidel"},
    {"steps": 4},
    {"mode": "gauss_seidel", "steps": 4, "a_after_r": 0.5},
    {"prompt_cache": True},
    {"prompt_cache": True, "mode": "gauss_seidel"},
    {"attention": "block_causal", "prompt_cache": True},
    {"attention": "block_causal", "mode": "gauss_seidel", "r_length": 12, "a_length": 12},
    {"temperature": 0.7, "steps": 5},
    {"r_length": 10, "a_length": 5, "stop_r_when_a_done": True},
]


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()) or "defaults"
)
@pytest.mark.parametrize(
    ("name", "rule"), [("dream_tiny", "reference"), ("dream_eos_tiny", "harness"), ("llada_tiny", "harness")]
)
def test_batch_of_four_equals_single_rows(settings: dict[str, Any], name: str, rule: StopRule) -> None:
    together = run(name, PROMPTS, rule, **settings)
    model = backbone(name)
    for index, prompt in enumerate(PROMPTS):
        alone = decode(
            model,
            DECODER,
            build_config("lockstep", Config, settings),
            [prompt],
            NEW,
            stop_rule=rule,
            seeds=[index],
        )[0]
        assert facts(alone) == facts(together[index])


@pytest.mark.parametrize("mode", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize("taus", [(0.9, 0.92), (0.3, 0.2), (1.0, 0.0)])
def test_thresholds_and_cap(mode: str, taus: tuple[float, float]) -> None:
    for prompt in PROMPTS:
        row = run("dream_tiny", [prompt], mode=mode, tau_r=taus[0], tau_a=taus[1])[0]
        for (start, stop), tau in zip(row.spans, taus, strict=True):
            for step in set(row.step_map[start:stop]):
                chosen = [
                    value
                    for k, value in enumerate(row.confidence)
                    if start <= k < stop and row.step_map[k] == step
                ]
                assert len(chosen) <= max(1, int(0.4 * (stop - start)))
                assert len(chosen) == 1 or all(value is not None and value >= tau for value in chosen)


def test_pace_overrides_the_cap() -> None:
    row = run("dream_tiny", PROMPTS[:1], steps=2, max_fill_frac=0.1, **NEVER)[0]
    assert row.step_map[:R_LENGTH].count(0) == 9


def test_greedy_tail_at_the_last_step() -> None:
    """One step at any temperature is the argmax of the empty canvas, and both blocks are filled by it."""
    model = backbone("dream_tiny")
    page = canvas(model, PROMPTS[:1], NEW)
    logits = model.forward(page, Forward((0, 3 + NEW), range(3, 3 + NEW)))
    want = logits.index_fill(1, torch.tensor([model.spec.mask_id]), float("-inf")).argmax(-1).tolist()
    assert run("dream_tiny", PROMPTS[:1], steps=1, temperature=1.5, a_after_r=1.0)[0].output == want


@pytest.mark.parametrize("mode", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_answer_waits_for_reasoning(mode: str, share: float) -> None:
    row = run("dream_tiny", PROMPTS[:1], mode=mode, a_after_r=share)[0]
    first = min(row.step_map[R_LENGTH:])
    before = sum(step < first for step in row.step_map[:R_LENGTH])
    assert before / R_LENGTH >= share
    assert min(run("dream_tiny", PROMPTS[:1], mode=mode)[0].step_map[R_LENGTH:]) <= 1


@pytest.mark.parametrize("mode", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize("rule", ["reference", "harness"])
def test_reasoning_may_stop_once_the_answer_is_there(mode: str, rule: StopRule) -> None:
    settings: dict[str, Any] = {
        "mode": mode,
        "r_length": 20,
        "a_length": 4,
        "tau_r": 1.0,
        "tau_a": 0.0,
        "max_fill_frac": 0.5,
    }
    whole = run("dream_tiny", PROMPTS[:1], rule, **settings)[0]
    short = run("dream_tiny", PROMPTS[:1], rule, **settings, stop_r_when_a_done=True)[0]
    assert short.nfe < whole.nfe
    assert min(short.step_map[20:]) >= 0
    assert -1 in short.step_map[:20]
    assert short.output[20:] == whole.output[20:]


def test_reasoning_that_ends_early_does_not_end_the_answer() -> None:
    eos = backbone("dream_eos_tiny").spec.eos_ids[0]
    ended = 0
    for seed in range(1, 20):
        row = run("dream_eos_tiny", [[seed, seed + 1]], "harness")[0]
        r, a = row.output[:R_LENGTH], row.output[R_LENGTH:]
        early = eos in r and -1 not in row.step_map[: r.index(eos)]
        ended += early
        cut = a.index(eos) + 1 if eos in a else len(a)
        assert -1 not in row.step_map[R_LENGTH : R_LENGTH + cut]
    assert ended > 0


@pytest.mark.parametrize("mode", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_block_causal_cache_is_exact(name: str, mode: str) -> None:
    for prompt in PROMPTS:
        settings: dict[str, Any] = {"mode": mode, "attention": "block_causal", "block_size": 6}
        cached, uncached = (run(name, [prompt], **settings, prompt_cache=flag)[0] for flag in (True, False))
        assert facts(cached)[:2] == facts(uncached)[:2]
        assert {entry[1] for entry in uncached.forwards} == {0}
        kept = [entry[1] for entry in cached.forwards]
        assert set(kept) <= {0, len(prompt), len(prompt) + R_LENGTH}
        assert kept == sorted(kept)
        assert cached.positions < uncached.positions


@pytest.mark.parametrize(("name", "shift"), [("dream_tiny", 1), ("llada_tiny", 0)])
def test_dual_cache_refreshes_when_a_block_is_full(name: str, shift: int) -> None:
    row = run(name, PROMPTS[1:2], prompt_cache=True)[0]
    length = len(PROMPTS[1]) + NEW
    full = [index for index, entry in enumerate(row.forwards) if entry == (length, 0, length)]
    ends = [max(row.step_map[start:stop]) for start, stop in row.spans]
    assert full == [0, min(ends) + 1]
    inner = {entry for index, entry in enumerate(row.forwards) if index not in full}
    both, one = NEW + shift, (R_LENGTH if ends[0] > ends[1] else NEW - R_LENGTH) + shift
    assert inner == {(both, length, both), (one, length, one)}


def test_blocks_shorter_than_the_canvas_end_the_region() -> None:
    row = run("dream_tiny", PROMPTS[:1], r_length=7, a_length=3)[0]
    assert (len(row.output), row.spans) == (10, [(0, 7), (7, 10)])
    assert {entry[0] for entry in row.forwards} == {13}


def test_block_statistics_come_from_the_step_map() -> None:
    sample = Sample(
        run_id="r", suite="s", method="m", doc_id=0, prompt_hash="p", order=0, prompt_tokens=1,
        output_ids=[1] * 5, text=None, useful=5, committed=4, nfe=3, positions=9, kv_read=9, time_s=0.1,
        output_hash="h", step_map=[0, 0, 2, 1, -1], confidence=[0.5, 1.0, None, 0.75, None],
        blocks=[(0, 3), (3, 5)],
    )  # fmt: skip
    r, a = block_stats(sample)
    assert (r.length, r.written, r.first, r.last, r.confidence, r.per_forward) == (3, 3, 0, 2, 0.75, 1.0)
    assert r.fill == pytest.approx([2 / 3, 2 / 3, 1])
    assert (a.length, a.written, a.first, a.last, a.confidence, a.fill) == (2, 1, 1, 1, 0.75, [0, 0.5, 0.5])
    assert [block.length for block in block_stats(sample.model_copy(update={"blocks": []}))] == [5]
    assert block_stats(sample.model_copy(update={"step_map": []})) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tau_r": 1.2}, "tau_r=1.2"),
        ({"tau_a": -0.1}, "tau_a=-0.1"),
        ({"max_fill_frac": 0}, "max_fill_frac=0"),
        ({"a_after_r": 2}, "a_after_r=2"),
        ({"r_length": 0}, "r_length=0"),
        ({"a_length": 0}, "a_length=0"),
        ({"steps": 0}, "steps=0"),
        ({"mode": "both"}, "mode=both"),
        ({"r_length": 20, "a_length": 5}, "overlap on a canvas of 24"),
        ({"r_length": 24}, "r_length 24 leaves no token for A"),
        ({"a_length": 30}, "a_length 30 leaves no token for R"),
        ({"block_size": 4}, "attention=block_causal"),
        ({"attention": "block_causal", "block_size": 5}, "block_size 5 must divide"),
    ],
)
def test_bad_settings_name_what_to_change(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        run("dream_tiny", PROMPTS[:1], **settings)


def test_model_without_mask_token_is_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "dream_tiny" / "model.safetensors", tmp_path)
    raw = json.loads((GOLDEN / "dream_tiny" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "qwen2", "mask_token_id": None}))
    with pytest.raises(CheckpointError, match="no mask token"):
        load(str(tmp_path), METHOD.requires)


def test_cache_and_hooks_exclude_each_other() -> None:
    decoder: Any = Lockstep(logits_hook=lambda step, x, logits: logits)
    with pytest.raises(SettingError, match="prompt_cache=false"):
        decode(backbone("dream_tiny"), decoder, Config(prompt_cache=True), PROMPTS[:1], NEW)
