"""Where an answer ends: end-of-turn and padding tokens of real tokenizers, for the canvas, the count, the
text and GRPO.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.decoding.decoder import RowDecoder
from harness.decoding.forward import Forward
from harness.engine import loader
from harness.engine.generator import Generator, Request
from harness.model import catalog
from harness.model.catalog import Entry
from harness.model.recognise import read_spec
from methods.training.grpo.rollout import scored_places
from tests.tokenizers_tiny import DIFFUCODER, EOS, IM_END, PAD, letters, with_tokenizer

CANVAS = 16


class Script(RowDecoder):
    """Writes three words, the end of the turn and padding, left to right, one token per forward."""

    name = "script"
    summary = "a fixed answer"
    tokens = (5, 6, 7, IM_END, *[PAD] * (CANVAS - 4))

    def decode_row(self, row: Any, spec: Any, config: Any) -> Any:
        while at := row.masked()[:1]:
            yield Forward(feed=(0, row.length), at=at)
            row.commit(at, [self.tokens[at[0] - row.prompt_length]], [1.0])


class AllAtOnce(Script):
    """The same answer in one forward: nothing is left to save, but padding must not count."""

    name = "all_at_once"

    def decode_row(self, row: Any, spec: Any, config: Any) -> Any:
        at = row.masked()
        yield Forward(feed=(0, row.length), at=at)
        row.commit(at, self.tokens, [1.0] * len(at))


@pytest.fixture
def diffucoder(tmp_path: Path) -> Path:
    return with_tokenizer(tmp_path / "model", DIFFUCODER, eos_token="<|endoftext|>", pad_token="<|dlm_pad|>")


def answer(folder: Path, decoder: Any, stops: tuple[str, ...] = ()) -> Any:
    generator = Generator(loader.load(str(folder)), decoder, {})
    return next(iter(generator.run([Request([5, 6], CANVAS, stops)], 1)))[0]


def test_an_answer_of_three_tokens_counts_three_and_exits_early(diffucoder: Path) -> None:
    item = answer(diffucoder, Script())
    assert (item.useful, item.text) == (3, letters(5, 6, 7))
    assert item.decoded.nfe == 4


def test_training_scores_nothing_behind_the_end_of_the_turn(diffucoder: Path) -> None:
    item = answer(diffucoder, AllAtOnce())
    ends = loader.load(str(diffucoder)).spec.eos_ids
    assert item.useful == 3
    assert scored_places(item.decoded, ends) == [True] * 4 + [False] * 12


def test_ends_of_a_tokenizer_join_those_of_the_configuration(diffucoder: Path) -> None:
    spec = read_spec(diffucoder)
    assert spec.eos_ids[0] == EOS
    assert set(spec.eos_ids) == {EOS, IM_END, PAD}


def test_ends_are_found_in_the_older_files_too(diffucoder: Path) -> None:
    """A slow tokenizer (Dream's) names its special tokens in tokenizer_config.json or added_tokens.json
    alone.
    """
    (diffucoder / "tokenizer.json").unlink()
    (diffucoder / "vocab.json").write_text("{}")
    decoder = {str(token): {"content": text, "special": True} for token, text in DIFFUCODER.items()}
    (diffucoder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": decoder, "eos_token": {"content": "<|endoftext|>"}})
    )
    assert set(read_spec(diffucoder).eos_ids) == {EOS, IM_END, PAD}
    (diffucoder / "tokenizer_config.json").unlink()
    (diffucoder / "added_tokens.json").write_text(
        json.dumps({text: token for token, text in DIFFUCODER.items()})
    )
    assert set(read_spec(diffucoder).eos_ids) == {EOS, IM_END, PAD}


def test_padding_that_can_be_text_ends_nothing(tmp_path: Path) -> None:
    """A pad token that is an ordinary word, the mask or the beginning of text is no end."""
    special = {EOS: "<|endoftext|>", 252: "<|beginoftext|>", 254: "<|mask|>"}
    for number, pad in enumerate([letters(7), "<|beginoftext|>", "<|mask|>"]):
        folder = with_tokenizer(
            tmp_path / str(number),
            special,
            eos_token="<|endoftext|>",
            bos_token="<|beginoftext|>",
            mask_token="<|mask|>",
            pad_token=pad,
        )
        assert read_spec(folder).eos_ids == (EOS,)


def test_the_catalogue_overrides(diffucoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        catalog, "catalog", lambda: {"known": Entry(path=str(diffucoder), end_tokens=["<|endoftext|>"])}
    )
    assert loader.load("known").spec.eos_ids == (EOS,)
    assert set(loader.load(str(diffucoder)).spec.eos_ids) == {EOS, IM_END, PAD}


def test_nano_ends_where_it_did() -> None:
    """Its tokenizer has <|im_end|>, which it was never trained to write: stored answers stay valid."""
    for name in ("nano", "nano-ar", "nano-ra", "nano-cfd"):
        assert loader.load(name).spec.eos_ids == (0,)


def test_checkpoints_without_a_tokenizer_keep_their_ends(golden: Path) -> None:
    assert read_spec(golden / "dream_tiny").eos_ids == (EOS,)


def test_stop_strings_that_are_special_tokens_match(tmp_path: Path) -> None:
    """A special token that ends no turn by itself (<|im_start|>) still stops an answer whose suite says
    so.
    """

    class NextTurn(AllAtOnce):
        tokens = (5, 6, 251, 7, 8, 251, *[EOS] * (CANVAS - 6))

    folder = with_tokenizer(
        tmp_path / "model", {EOS: "<|endoftext|>", 251: "<|im_start|>"}, eos_token="<|endoftext|>"
    )
    assert answer(folder, NextTurn()).useful == 6
    item = answer(folder, NextTurn(), ("<|im_start|>",))
    assert (item.useful, item.text) == (2, letters(5, 6))
    item = answer(folder, NextTurn(), (letters(8), "<|im_start|>" + letters(9)))
    assert (item.useful, item.text) == (4, letters(5, 6, 7))
    item = answer(folder, NextTurn(), (letters(7, 8) + "<|im_start|>",))
    assert (item.useful, item.text) == (3, letters(5, 6))
