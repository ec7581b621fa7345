"""Useful text in ids, the run store, likelihoods, and checkpoint layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.lm_eval import likelihood
from harness.model.families.llada import FAMILY as LLADA
from harness.model.load import load_transformer, tensors
from harness.model.text import (
    MarkerError,
    answer_of_blocks,
    before_eos,
    behind_marker,
    cut_at_stops,
    encode,
    split_markers,
)
from harness.records.schema import RecordError, Sample, read_samples
from tests.conftest import GOLDEN
from tests.helpers import CPU, backbone


class Letters:
    """A tokenizer whose ids are code points, with one two-letter piece (id 1 = 'ab')."""

    bos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join("ab" if token == 1 else chr(token) for token in ids)


def test_bos_is_added_once() -> None:
    assert encode(Letters(), "xy", add_bos=True) == [0, 120, 121]
    assert encode(Letters(), "\0xy", add_bos=True) == [0, 120, 121]
    assert encode(Letters(), "xy", add_bos=False) == [120, 121]


def test_useful_ids_end_before_eos_or_a_hole() -> None:
    assert before_eos([5, 6, 9, 7], [0, 1, 0, 2], {9}) == [5, 6]
    assert before_eos([5, 6, 7], [0, -1, 0], {9}) == [5]


@pytest.mark.parametrize(
    ("ids", "stops", "expected"),
    [
        ([120, 121, 122], ["q"], (3, "xyz")),
        ([120, 121, 122], ["y"], (1, "x")),
        ([120, 1, 122], ["bz"], (1, "xa")),
        ([120, 121, 122], ["z", "y"], (1, "x")),
        ([120, 121], ["x"], (0, "")),
        ([120, 121], [""], (2, "xy")),
    ],
)
def test_stop_strings_map_back_to_ids(ids: list[int], stops: list[str], expected: tuple[int, str]) -> None:
    assert cut_at_stops(Letters(), ids, stops) == expected


@pytest.mark.parametrize(
    ("ids", "steps", "stops", "expected"),
    [
        ([120, 9, 9, 121, 122], [0, 0, 0, 0, 0], [], ([1, 2], "x\nyz")),
        ([120, 10, 9, 121, 9], [0, 0, 0, 0, 0], [], ([2, 1], "x\ny")),
        ([120, 113, 120, 121, 122], [0, 0, 0, 0, 0], ["q"], ([1, 2], "x\nyz")),
        ([120, 0, 120, 121, 122], [0, -1, 0, 0, 0], [], ([1, 2], "x\nyz")),
        ([9, 9, 9, 121, 122], [0, 0, 0, 0, 0], [], ([0, 2], "yz")),
    ],
    ids=["ended", "line-break", "stop-string", "hole", "empty"],
)
def test_blocks_are_cut_one_by_one(
    ids: list[int], steps: list[int], stops: list[str], expected: tuple[list[int], str]
) -> None:
    assert answer_of_blocks(Letters(), ids, steps, [(0, 3), (3, 5)], {9}, stops) == expected
    assert answer_of_blocks(None, ids, steps, [(0, 3), (3, 5)], {9}, [])[1] is None


def test_one_block_is_the_plain_rule() -> None:
    assert answer_of_blocks(Letters(), [120, 121, 9, 122], [0, 0, 0, 0], [(0, 4)], {9}, ["y"]) == ([1], "x")


def test_marked_blocks_tell_answer_from_reasoning() -> None:
    for ids, text, answer in [
        ([120, 9, 121, 122], "x[A]yz", "yz"),
        ([9, 9, 121, 9], "[A]y", "y"),
        ([120, 9, 9, 9], "x[A]", ""),
    ]:
        found = answer_of_blocks(Letters(), ids, [0, 0, 0, 0], [(0, 2), (2, 4)], {9}, [], marked=True)[1]
        assert (found, behind_marker(text)) == (text, answer)
    assert behind_marker("x[A]y[A]z") == "z"
    assert behind_marker("no marker") == "no marker"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Why? [R] [A]", ("Why?", {})),
        ("Why?\n[R:48][A:16]\n", ("Why?\n", {"R": 48, "A": 16})),
        ("Why? [R][A:5]", ("Why?", {"A": 5})),
        ("no markers [B]", ("no markers [B]", {})),
    ],
)
def test_markers_close_the_prompt(prompt: str, expected: tuple[str, dict[str, int]]) -> None:
    assert split_markers(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Why? [R]", "one .R. and then one .A."),
        ("Why? [A] [R]", "one .R. and then one .A."),
        ("Why? [R] [R] [A]", "one .R. and then one .A."),
        ("Why? [R] so [A]", "'so' stands behind"),
        ("Why? [R] [A] now", "'now' stands behind"),
        ("Why? [R:0] [A]", "empty block"),
    ],
)
def test_misplaced_markers_are_refused(prompt: str, text: str) -> None:
    with pytest.raises(MarkerError, match=text):
        split_markers(prompt)


def sample(doc_id: int) -> Sample:
    return Sample(
        run_id="r", suite="s", method="m", doc_id=doc_id, prompt_hash="p", order=0, prompt_tokens=1,
        output_ids=[1], text="x", useful=1, committed=1, nfe=1, positions=1, kv_read=1, time_s=0.1,
        output_hash="h",
    )  # fmt: skip


def test_torn_last_line_is_ignored_and_other_damage_is_not(tmp_path: Path) -> None:
    lines = [sample(index).model_dump_json() for index in (1, 0)]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines) + "\n" + lines[0][:40])
    assert [one.doc_id for one in read_samples(tmp_path)] == [0, 1]
    (tmp_path / "samples.jsonl").write_text(lines[0][:40] + "\n" + lines[1] + "\n")
    with pytest.raises(RecordError, match=r"line 1 is damaged.*--fresh"):
        read_samples(tmp_path)


def test_causal_likelihood_is_the_chain_rule() -> None:
    model = backbone("dream_tiny")
    prefix, target = [5, 6, 7], [9, 10]
    value, greedy = likelihood.causal(model, prefix, target)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    logp = model._model(torch.tensor([prefix + target]), mask)[0].log_softmax(-1)
    assert value == pytest.approx(float(logp[2, 9] + logp[3, 10]), abs=1e-4)
    assert greedy == bool(logp[2].argmax() == 9 and logp[3].argmax() == 10)


@pytest.mark.parametrize("name", ["dream_tiny", "llada_tiny"])
def test_masked_likelihood_of_one_token_is_exact(name: str) -> None:
    """With a single target token every draw masks it, so the bound is the model's own log-probability."""
    model = backbone(name)
    value, _ = likelihood.masked(model, [5, 6, 7], [9], draws=8, batch=4, seed=0)
    ids = torch.tensor([[5, 6, 7, model.spec.mask_id]])
    logits = model.score(ids)[0, 2 if model.spec.shift else 3]
    assert value == pytest.approx(float(logits.log_softmax(-1)[9]), abs=1e-4)


def test_masked_likelihood_is_the_mean_over_masks() -> None:
    """Two target tokens: the estimate converges to the exact average over both mask counts."""
    model = backbone("llada_tiny")
    prefix, target = [5, 6, 7], [9, 20]
    value, _ = likelihood.masked(model, prefix, target, draws=512, batch=64, seed=1)
    mask = model.spec.mask_id
    assert mask is not None

    def logp(ids: list[int]) -> torch.Tensor:
        return model.score(torch.tensor([ids]))[0].log_softmax(-1)

    both = logp([*prefix, mask, mask])
    one = 2 * logp([*prefix, mask, 20])[3, 9], 2 * logp([*prefix, 9, mask])[4, 20]
    exact = float((both[3, 9] + both[4, 20] + (one[0] + one[1]) / 2) / 2)
    assert value == pytest.approx(exact, rel=0.05)
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.transformer.wte.weight", "model.embed_tokens.weight"),
        ("model.transformer.ff_out.weight", "lm_head.weight"),
        ("model.transformer.blocks.3.ff_out.weight", "model.layers.3.mlp.down_proj.weight"),
        ("model.transformer.blocks.3.attn_out", "model.layers.3.self_attn.o_proj"),
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_llada_names(theirs: str, ours: str) -> None:
    assert LLADA.canonical_name(theirs) == ours


def test_sharded_checkpoint_equals_single_file(tmp_path: Path) -> None:
    source = GOLDEN / "dream_tiny"
    state = dict(tensors(source))
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, members in shards.items():
        save_file({name: state[name] for name in members}, tmp_path / file)
    index = {"weight_map": {name: file for file, members in shards.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    ids = torch.arange(9).unsqueeze(0)
    one, two = (load_transformer(folder, torch.float32, CPU) for folder in (source, tmp_path))
    assert torch.equal(one(ids), two(ids))
