"""Suites on a canvas of reasoning and answer: the same documents, blocks that fit, grading of the answer
alone.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer

from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.decoding.settings import SettingError
from harness.engine.generator import Generator, Request
from harness.engine.held import Held
from harness.engine.loader import Loaded
from harness.lm_eval.model import DiffusionLM
from harness.measuring.clock import decode
from harness.model.catalog import location
from harness.model.text import ANSWER
from harness.sandbox import launch
from methods import ar, d2f, fast_dllm, lockstep, lopa, vanilla
from suites.generators import code, frozen, gsm
from suites.suite import load_suite
from tests.helpers import backbone

PAIRS = [("nano-gsm-ra", "nano-gsm"), ("nano-code-ra", "nano-code")]
needs_jail = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")


@pytest.mark.parametrize(("name", "plain"), PAIRS)
def test_documents_and_prompts_are_those_of_the_plain_suite(name: str, plain: str) -> None:
    ours, theirs = load_suite(name), load_suite(plain)
    assert ours.fingerprint() == ours.frozen == theirs.frozen
    assert ours.canvas == sum(ours.blocks)
    assert theirs.blocks == ()
    assert ours.embedded == theirs.embedded


@pytest.mark.parametrize(("name", "plain"), PAIRS)
def test_blocks_hold_every_reference_response_with_its_ends(name: str, plain: str) -> None:
    suite, tokenizer = load_suite(name), Tokenizer.from_file(f"{location('nano')}/tokenizer.json")
    rng = random.Random(5)
    draw = gsm.generate if plain == "nano-gsm" else code.generate
    responses = [doc["response"] for _, doc in suite.docs()]
    for _ in range(500):
        response = draw(rng, "train").response
        responses.append(
            ANSWER.join(gsm.blocks(response) if plain == "nano-gsm" else (code.plan_of(response), response))
        )
    for response in responses:
        parts = response.split(ANSWER)
        assert len(parts) == 2
        assert all(
            len(tokenizer.encode(part).ids) < length for part, length in zip(parts, suite.blocks, strict=True)
        )


@needs_jail
@pytest.mark.parametrize(("name", "plain"), PAIRS)
def test_the_answer_alone_is_graded(name: str, plain: str) -> None:
    suite = load_suite(name)
    for _, doc in suite.docs(limit=16):
        reasoning, answer = doc["response"].split(ANSWER)
        assert suite.grade(doc, doc["response"]).correct
        assert suite.grade(doc, f"garbage) {ANSWER}{answer}").correct
        assert not suite.grade(doc, f"{reasoning}{answer}{ANSWER}").correct
        assert not suite.grade(doc, f"{reasoning}\n{answer}{ANSWER}    return None #### 0").correct


def test_plan_names_what_each_line_computes() -> None:
    body = "    xs = [x for x in xs if x % 2 == 0]\n    xs = [x + 3 for x in xs]\n    return xs.count(4)"
    assert code.plan_of(body) == "    # x % 2 == 0, x + 3, xs.count(4)"
    assert code.plan_of("    s = s[::-1]\n    return s[0]") == "    # s[::-1], s[0]"
    for _ in range(3):
        item, plain = (
            code.generate(random.Random(9), "train", with_tests=False, plan=plan) for plan in (True, False)
        )
        assert item.response == f"{code.plan_of(plain.response)}\n{plain.response}"
        assert item.prompt == plain.prompt


def test_frozen_items_carry_no_plan() -> None:
    assert all("#" not in row["response"] for row in frozen.load("code", "test"))


PROMPTS = [[5, 6, 7], [40] * 5, [9, 11], [100, 3, 50, 2]]
LOCKSTEP: Any = lockstep.METHOD
AUTOREGRESSIVE: Any = ar.METHOD
METHODS: list[tuple[Any, dict[str, Any]]] = [
    (vanilla.METHOD, {}),
    (fast_dllm.METHOD, {"block_length": 6}),
    (d2f.METHOD, {"block_size": 6}),
    (lopa.METHOD, {"block_size": 6}),
    (lockstep.METHOD, {}),
]


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=[method.name for method, _ in METHODS])
@pytest.mark.parametrize("name", ["dream_eos_tiny", "llada_eos_tiny"])
def test_every_method_fills_both_blocks_up_to_their_own_ends(
    name: str, method: Any, settings: dict[str, Any]
) -> None:
    model, ended = backbone(name), 0
    eos = model.spec.eos_ids[0]
    for seed in range(12):
        row = decode(model, method, method.Config(**settings), [[seed + 1, seed + 2]], 24, blocks=[18, 6])[0]
        assert [check for check in row.checks if not check.passed] == []
        assert [start for start, _ in row.spans] == [0, 18]
        for start, stop in row.spans:
            text, steps = row.output[start:stop], row.step_map[start:stop]
            cut = text.index(eos) + 1 if eos in text else len(text)
            assert -1 not in steps[:cut]
            ended += cut < len(text)
    assert ended > 0


def test_autoregressive_rows_go_on_behind_the_first_end() -> None:
    model = backbone("dream_eos_tiny")
    eos = model.spec.eos_ids[0]
    rows = [
        decode(model, AUTOREGRESSIVE, ar.Config(), [[seed, seed + 1]], 24, blocks=[18, 6])[0]
        for seed in range(1, 30)
    ]
    assert all(len(row.output) > 18 and -1 not in row.step_map for row in rows)
    assert any(eos in row.output[:18] for row in rows)


def loaded(name: str) -> Loaded:
    return Loaded(Held.ready(backbone(name)), None, name, name, "", None, None, None, None, 48, False, 0.0)


def test_generator_takes_the_canvas_from_the_blocks() -> None:
    decoder: Any = lockstep.METHOD
    generator = Generator(loaded("dream_eos_tiny"), decoder, {})
    assert generator.canvas(32, (24, 8)) == 32
    assert (generator.canvas(32), generator.canvas()) == (32, 48)
    item = next(iter(generator.run([Request([5, 6], 32, blocks=(24, 8))], 1)))[0]
    assert item.decoded is not None
    assert item.decoded.spans == [(0, 24), (24, 32)]
    assert item.useful == sum(item.block_useful)
    assert len(item.block_useful) == 2
    with pytest.raises(SettingError, match=r"max_new_tokens 40 contradicts a canvas of 24 \+ 8"):
        Generator(loaded("dream_eos_tiny"), decoder, {"max_new_tokens": 40}).canvas(32, (24, 8))


def test_requests_of_other_blocks_share_no_batch() -> None:
    decoder: Any = vanilla.METHOD
    generator = Generator(loaded("dream_eos_tiny"), decoder, {})
    requests = [Request([5, 6], 8, blocks=blocks) for blocks in [(4, 4), (4, 4), (6, 2), ()]]
    sizes = [len(batch) for batch in generator.run(requests, 4)]
    assert sizes == [2, 1, 1]


def test_lockstep_takes_the_suites_blocks_and_refuses_others() -> None:
    model = backbone("dream_tiny")
    page = Canvas(
        [[5]],
        8,
        vocab_size=model.spec.vocab_size,
        mask_id=model.spec.mask_id,
        eos_ids=model.spec.eos_ids,
        blocks=[6, 2],
    )
    request = next(lockstep.METHOD.decode_row(page.rows[0], model.spec, lockstep.Config(mode="gauss_seidel")))
    assert isinstance(request, Forward)
    assert list(request.at) == list(range(1, 7))
    decode(model, LOCKSTEP, lockstep.Config(r_length=6), [[5]], 8, blocks=[6, 2])
    with pytest.raises(SettingError, match="a_length 4 contradicts the given blocks of 6 and 2"):
        decode(model, LOCKSTEP, lockstep.Config(a_length=4), [[5]], 8, blocks=[6, 2])
    with pytest.raises(SettingError, match="3 blocks"):
        decode(model, LOCKSTEP, lockstep.Config(), [[5]], 8, blocks=[4, 2, 2])


def test_lm_eval_gets_the_same_text_as_bench_run() -> None:
    suite = load_suite("nano-gsm-ra")
    doc = suite.docs(limit=1)[0][1]
    settings: Any = {"steps": "4"}
    model = DiffusionLM(pretrained="nano", method="lockstep", device="cpu", **settings)
    arguments = (suite.prompt(doc), dict(suite.config["generation_kwargs"]))
    instance = Instance("generate_until", doc, arguments, 0, metadata=("nano-gsm-ra", 0, 1))
    text = model.generate_until([instance], disable_tqdm=True)[0]
    request = Request(suite.prompt(doc), suite.canvas, blocks=suite.blocks)
    own = next(iter(Generator(model.generator.loaded, LOCKSTEP, settings).run([request], 1)))[0]
    assert text == own.text
    assert text.count(ANSWER) == 1
