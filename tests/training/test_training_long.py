"""The recipe of nano-long in miniature: its batches, its decoder with a cache, both phases and a killed
run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from harness.model.recognise import read_spec
from harness.model.spec import ModelSpec
from methods.training import nano_long
from methods.training.data import corpus_long
from methods.training.data.corpus import save_tokenizer
from methods.training.loop.loop import LoopOptions
from methods.training.nano import GateError, Phase
from methods.training.validation import Mode

TINY = ModelSpec(
    family="qwen2",
    vocab_size=800,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    qkv_bias=True,
)


def options_at(folder: Path, tokenizer: Tokenizer, steps: int = 2) -> nano_long.LongOptions:
    save_tokenizer(tokenizer, folder / "work" / "tokenizer")  # the recipe's own takes longer to train
    phase = Phase(
        LoopOptions(steps, warmup=1, save_every=1, log_every=1, accumulate=2),
        0.01,
        1e-3,
        corpus_long.LongMix(),
        512,
    )
    return nano_long.LongOptions(
        folder / "out",
        folder / "work",
        pool_items=120,
        parent=phase,
        conversion=phase,
        gate=0,
        validate_every=2,
        check_items=1,
        check_canvas=16,
        validation_items=1,
        modes=(Mode("block", 8),),
        spec=TINY,
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return corpus_long.train_tokenizer(0, count=500)


def test_every_word_and_digit_is_one_piece(tokenizer: Tokenizer) -> None:
    for text in (
        " Tom has 7 + 12 = 19 kites.\n#### 19",
        "    total = 0\n    for x in xs:\n        if x < 13:",
        "naïve 漢字 🙂\t\r\n",
    ):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
    pieces = tokenizer.encode(" total = 12\n    total += 7").tokens
    assert pieces.count("Ġtotal") == 2
    assert {"Ġ1", "2", "Ġ7"} <= set(pieces)


def test_a_course_goes_from_short_items_to_full_ones(tmp_path: Path, tokenizer: Tokenizer) -> None:
    options = options_at(tmp_path, tokenizer, steps=100)
    course = nano_long.course_of(options, nano_long.long_tokenizer(options), options.parent, 0, 0.5)
    early, late = (
        sum(course.batch(step).ids.shape[1] for step in steps) for steps in (range(20), range(150, 170))
    )
    assert late > 1.3 * early
    first, again = course.batch(7), course.batch(7)
    assert (first.ids == again.ids).all()


def test_both_phases_and_a_continued_run(tmp_path: Path, tokenizer: Tokenizer) -> None:
    options = options_at(tmp_path / "whole", tokenizer)
    figures = nano_long.train_nano_long(options)
    assert {"long-gsm/block-8", "long-code/block-8", "parallel-sort/block-8", "parallel/block-8"} <= set(
        figures
    )
    assert not read_spec(tmp_path / "whole" / "out" / "nano-long-ar").diffusion
    assert read_spec(tmp_path / "whole" / "out" / "nano-long").diffusion
    card = (tmp_path / "whole" / "out" / "nano-long" / "README.md").read_text()
    assert "bench train nano --preset long" in card
    assert "| nano-long-gsm | nano-long-code | parallel-copy |" in card
    # A run that was cut off in the parent's first step and continued ends at the same weights.
    cut = options_at(tmp_path / "cut", tokenizer)
    with pytest.raises(GateError, match="train it longer"):
        nano_long.train_nano_long(replace(cut, gate=2))
    nano_long.train_nano_long(cut)
    ends = [
        torch.load(tmp_path / name / "work" / "diffusion" / "checkpoint.pt", weights_only=True)["model"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
