"""Training: the D2F loss against its reference, exact resumption, corruption, optimiser, shipped layout."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer

from harness.engine.generator import Generation, Generator
from harness.model.adapter import Adapter
from harness.model.load import load_transformer
from harness.model.recognise import read_spec
from harness.model.spec import ModelSpec
from harness.sandbox import launch
from methods.training import nano, validation
from methods.training.data import corpus
from methods.training.data import corruption as diffusion
from methods.training.data.batches import Stream
from methods.training.loop import loop as core
from methods.training.loop import optim
from methods.training.students import d2f
from methods.training.students.student import Rows, Student
from tests.commands import Started
from tests.conftest import GOLDEN
from tests.helpers import wait_until

CPU = torch.device("cpu")
CASES = json.loads((GOLDEN / "d2f_loss.json").read_text())
TINY = ModelSpec("qwen2", 1024, 32, 64, 2, 2, 1, 16, qkv_bias=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return corpus.train_tokenizer(0, count=2000)


@pytest.fixture(scope="module")
def stream(tokenizer: Tokenizer) -> Stream:
    return Stream(
        corpus.build_pool(tokenizer, 0, 400, corpus.Mix()), 0, 512, tokenizer.token_to_id(corpus.EOS)
    )


class GoldenStudent(Student[d2f.D2FOptions]):
    """The trainer's student on a golden checkpoint and adapter, without data."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.options = d2f.D2FOptions(Path(), Path(), block_size=case["block_size"])
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(cpu=True)
        self.model, self.bare = (
            load_transformer(GOLDEN / case["model"], torch.float32, CPU) for _ in range(2)
        )
        Adapter(GOLDEN / case["adapter"]).attach(self.model)

    @contextmanager
    def base(self) -> Iterator[None]:
        adapted, self.model = self.model, self.bare
        yield
        self.model = adapted


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_d2f_loss_equals_the_reference(case: dict[str, Any]) -> None:
    """The loss that the trainer calls for each of its batches."""
    noisy, prompts = torch.tensor(case["noisy_ids"]), torch.tensor(case["prompt_length"])
    masked = torch.zeros(noisy.shape, dtype=torch.bool)
    for row, places in enumerate(case["masked_positions"]):
        masked[row, places] = True
    everywhere = torch.ones(noisy.shape, dtype=torch.bool)
    ends = torch.full_like(prompts, noisy.shape[1])
    rows = Rows(
        torch.tensor(case["input_ids"]),
        everywhere,
        everywhere[:, None, None, :],
        prompts,
        ends,
        np.arange(len(noisy)),
    )
    loss = d2f.d2f_loss(GoldenStudent(case), rows, d2f.Corrupted(noisy, masked, torch.tensor(case["p_mask"])))
    assert float(loss) == pytest.approx(case["loss"], rel=1e-4)


def test_noise_rises_from_block_to_block_and_stays_in_range() -> None:
    rng = np.random.default_rng(0)
    for blocks in (1, 2, 6):
        for _ in range(100):
            levels = d2f.noise_levels(rng, blocks)
            assert len(levels) == blocks
            assert (np.diff(levels) >= 0).all()
            assert levels[0] >= 0.2
            assert levels[-1] <= 0.7


def test_corruption_masks_only_the_canvas_and_something_in_every_row(
    stream: Stream, tokenizer: Tokenizer
) -> None:
    mask_id = tokenizer.token_to_id(corpus.MASK)
    for step in range(20):
        noisy = diffusion.corrupt(stream, step, mask_id, diffusion.Corruption())
        assert noisy.masked.any(1).all()
        assert not (noisy.masked & ~noisy.inside).any()
        assert (noisy.ids[noisy.masked] == mask_id).all()
        assert (noisy.ids == noisy.clean)[~noisy.masked].all()
        assert (noisy.weights[~noisy.masked] == 0).all()
        assert noisy.inside.sum(1).max() <= 48


def test_context_weights_favour_places_beside_clean_tokens() -> None:
    masked = np.array([[False, False, True, True, True, True]])
    weights = diffusion.context_weights(masked, np.array([6]), 0.3)[0]
    assert weights[2] > weights[3] > weights[4] > weights[5] > 0


def test_batches_are_a_function_of_seed_and_step(stream: Stream) -> None:
    again = Stream(stream.pool, stream.seed, stream.tokens, stream.eos)
    np.testing.assert_array_equal(stream.batch(5).ids, again.batch(5).ids)
    assert (
        stream.batch(5).ids.shape != stream.batch(6).ids.shape
        or (stream.batch(5).ids != stream.batch(6).ids).any()
    )


def test_tokenizer_keeps_digits_alone_and_encodes_any_text(tokenizer: Tokenizer) -> None:
    for text in (" 12+9=21\n#### 21", "    return x % 10", "naïve 漢字 🙂\t\r\n"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert not any(
            len(piece.strip("Ġ")) > 1 and any(c.isdigit() for c in piece)
            for piece in tokenizer.encode(text).tokens
        )


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(optim.orthogonalise(torch.randn(2, 24, 64)).float())
    assert values.min() > 0.4
    assert values.max() < 1.5


def test_muon_and_adam_lower_a_loss() -> None:
    torch.manual_seed(0)
    model, x = nano.new_model(TINY, 0), torch.randint(0, 700, (8, 16))
    optimisers = optim.build_optimisers(model, 0.02, 1e-2)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        losses.append(float(loss.detach()))
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


def test_schedule_warms_up_and_falls_to_zero() -> None:
    rates = [optim.schedule(step, 100, 10, 0.4) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[59] == 1.0
    assert rates[80] == pytest.approx(0.5)
    assert rates[100] == 0.0


def run_tiny(folder: Path, steps: int = 24) -> dict[str, torch.Tensor]:
    """A tiny autoregressive run in ``folder`` (also the body of the process that gets killed)."""
    tokenizer = corpus.train_tokenizer(0, count=500)
    rows = Stream(
        corpus.build_pool(tokenizer, 0, 200, corpus.Mix()), 0, 256, tokenizer.token_to_id(corpus.EOS)
    )
    model = nano.new_model(TINY, 0)
    options = core.LoopOptions(steps, warmup=4, save_every=3, log_every=1)
    optimisers = optim.build_optimisers(model, 0.02, 1e-3)
    core.train_loop(
        "tiny",
        model,
        optimisers,
        lambda step: nano.autoregressive_loss(model, rows.batch(step)),
        options,
        folder,
    )
    return model.state_dict()


def test_killed_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = run_tiny(tmp_path / "whole")
    process = Started(run_tiny, tmp_path / "cut")
    wait_until((tmp_path / "cut" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    continued = run_tiny(tmp_path / "cut")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_every_mode_decodes_through_the_harness(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nano.new_model(TINY, 1).eval()
    answered: list[Generation] = []
    finish = Generator._finish
    monkeypatch.setattr(
        Generator, "_finish", lambda self, item, row: (finish(self, item, row), answered.append(item))
    )
    modes = (validation.AR, *validation.DIFFUSION_MODES, validation.D2FMode())
    figures = validation.score(model, tokenizer, modes, 2)
    assert set(figures) == {
        f"{suite}/{mode}{end}" for suite in ("gsm", "code") for mode in modes for end in ("", "/nfe")
    }
    assert len(answered) == 2 * 2 * len(modes)
    assert {answer.status for answer in answered} == {"ok"}
    assert all(answer.decoded and answer.decoded.audit_passed for answer in answered)
    assert all(0 < figures[f"gsm/{mode}/nfe"] <= validation.CANVAS for mode in modes)


def test_validation_knows_a_right_answer_from_a_wrong_one() -> None:
    item = {"prompt": "def f(x):\n", "entry_point": "f", "tests": ["assert f(2) == 3"], "answer": "7"}
    with validation.jail_of_training() as jail:
        assert validation.right_program(item, "    return x + 1", jail)
        assert not validation.right_program(item, "    return x", jail)
        assert not validation.right_program(item, "    import sys; sys.exit(0)", jail)
        assert not validation.right_program(item, "    return '\0'", jail)
        assert not validation.right_program(item, "    return '\ud800'", jail)
        assert validation.right_number(item, "3+4=7\n#### 7", jail)
        assert not validation.right_number(item, "#### 8", jail)


def test_programs_of_validation_run_in_the_jail_alone(tmp_path: Path) -> None:
    item = {"prompt": "def f(x):\n", "entry_point": "f", "tests": ["assert f(2) == 3"]}
    marker = tmp_path / "written"
    with validation.jail_of_training() as jail:
        assert jail.backend != "none"
        assert not validation.right_program(
            item, f"    open({str(marker)!r}, 'w').write('x'); return 3", jail
        )
    assert not marker.exists()


def test_training_refuses_to_start_where_nothing_isolates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "probe", lambda: ("none", {"bwrap": "not found"}))
    monkeypatch.delenv("BENCH_ALLOW_UNSAFE_CODE", raising=False)
    with pytest.raises(validation.ValidationError, match="BENCH_ALLOW_UNSAFE_CODE=1"):
        nano.train_nano(nano.NanoOptions(tmp_path / "out", tmp_path / "work"))
    assert not list(tmp_path.iterdir())


def test_the_whole_recipe_in_miniature(tmp_path: Path) -> None:
    phase = nano.Phase(
        core.LoopOptions(3, warmup=1), muon_lr=0.01, adam_lr=1e-3, mix=corpus.Mix(), tokens=512
    )
    options = nano.NanoOptions(
        tmp_path,
        tmp_path / "work",
        pool_items=200,
        parent=phase,
        conversion=phase,
        gate=0,
        validation_items=2,
        modes=(validation.Mode("block", 8),),
        spec=TINY,
    )
    assert "code/block-8" in nano.train_nano(options)
    adapter = d2f.D2FOptions(
        tmp_path / "nano-d2f",
        tmp_path / "work",
        str(tmp_path / "nano"),
        pool_items=200,
        rank=4,
        every=2,
        validation_items=2,
    )
    d2f.TRAINER.train(adapter)
    model = load_transformer(tmp_path / "nano", torch.float32, CPU)
    Adapter(tmp_path / "nano-d2f").merge(model)
    assert (
        json.loads((tmp_path / "nano-d2f" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "nano"
    )
    assert read_spec(tmp_path / "nano").diffusion
    assert not read_spec(tmp_path / "nano-ar").diffusion
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "nano"))
    assert loaded.eos_token_id == loaded.pad_token_id == model.spec.eos_ids[0]
    assert loaded.mask_token_id == model.spec.mask_id
    assert loaded.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    ).endswith("assistant\n")
    ours = load_transformer(tmp_path / "nano-ar", torch.float32, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "nano-ar"), dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    torch.testing.assert_close(
        ours(ids, torch.ones(20, 20, dtype=torch.bool).tril()), theirs(ids).logits, rtol=1e-3, atol=1e-4
    )


def test_a_weak_parent_is_not_converted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus.save_tokenizer(
        tokenizer, tmp_path / "work" / "tokenizer"
    )  # the recipe's own takes longer to train
    phase = nano.Phase(core.LoopOptions(1), muon_lr=0.01, adam_lr=1e-3, mix=corpus.Mix(), tokens=256)
    options = nano.NanoOptions(
        tmp_path,
        tmp_path / "work",
        pool_items=100,
        parent=phase,
        conversion=phase,
        validation_items=2,
        spec=TINY,
    )
    with pytest.raises(nano.GateError, match="train it longer"):
        nano.train_nano(options)
