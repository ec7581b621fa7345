"""The training corpus of nano: tokenizer, and one fixed pool of tokenised items.

A prompt is encoded as ``[bos] + encode(prompt)`` and the response apart from it, so that no piece
spans the boundary; a response ends with eos.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from suites.generators import code, gsm

EOS, BOS, MASK, TURN, TURN_END = "<|endoftext|>", "<|beginoftext|>", "<|mask|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (EOS, BOS, MASK, TURN, TURN_END)
# Frequent idioms as one piece (fewer forwards per response), digits always alone.
PIECES = r"\nA:|\n#### | for x in xs| = \[x|\n *| {4}|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Mix:
    """Shares of the corpus; the rest is nano-code. ``drills`` are bare equations, ``sheet`` equations
    each.
    """

    gsm: float = 0.42
    drills: float = 0.24
    sheet: int = 3


def items(seed: int, count: int, mix: Mix) -> Iterator[tuple[str, str]]:
    """``count`` training (prompt, response) pairs, the same for the same arguments."""
    rng = random.Random(seed)
    for _ in range(count):
        draw = rng.random()
        if draw < mix.gsm:
            item = gsm.generate(rng, "train")
        elif draw < mix.gsm + mix.drills:
            item = gsm.drill(rng, count=mix.sheet)
        else:
            item = code.generate(rng, "train", with_tests=False)
        yield item.prompt, item.response


def train_tokenizer(seed: int, count: int = 20000, vocab: int = 1024) -> Tokenizer:
    """Byte-level BPE of at most ``vocab`` pieces, special tokens first; any UTF-8 text can be encoded.

    1024 is more than the corpus asks for (963): every word is one piece. With 768, words such as `` maximum``
    and `` even`` are split, and a model of this size confuses them for thousands of steps
    (docs/nano-log.md).
    """
    return fit_tokenizer(items(seed, count, Mix()), PIECES, vocab)


def fit_tokenizer(pairs: Iterable[tuple[str, str]], pieces: str, vocab: int = 1024) -> Tokenizer:
    """Byte-level BPE of at most ``vocab`` pieces, fitted to both texts of all pairs; no piece spans a
    boundary of ``pieces``.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for pair in pairs for text in pair), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and a tokenizer_config.json that AutoTokenizer reads offline."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The pieces file adds nothing itself; callers prepend bos when this is true.
        "add_bos_token": True,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "mask_token": MASK,
        "additional_special_tokens": [TURN, TURN_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


@dataclass(frozen=True)
class Pool:
    """Tokenised items: row i is ``ids[starts[i]:starts[i + 1]]`` = bos, prompt, response, eos."""

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def row(self, index: int) -> tuple[np.ndarray, int]:
        """Ids of one item and the length of its prompt (bos included)."""
        return self.ids[self.starts[index] : self.starts[index + 1]], int(self.prompts[index])


Draw = Callable[[int, int, Any], Iterable[tuple[str, str]]]


def build_pool(tokenizer: Tokenizer, seed: int, count: int, mix: Any, draw: Draw = items) -> Pool:
    """Tokenise ``count`` training items of ``draw(seed, count, mix)``."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    pairs = list(draw(seed, count, mix))
    prompts = tokenizer.encode_batch_fast([prompt for prompt, _ in pairs])
    responses = tokenizer.encode_batch_fast([response for _, response in pairs])
    rows = [[bos, *p.ids, *r.ids, eos] for p, r in zip(prompts, responses, strict=True)]
    starts = np.cumsum([0, *map(len, rows)])
    ids = np.fromiter((token for row in rows for token in row), np.int64, int(starts[-1]))
    return Pool(ids, starts, np.array([1 + len(p.ids) for p in prompts]))


def cached_pool(
    folder: Path, tokenizer: Tokenizer, seed: int, count: int, mix: Any, draw: Draw = items
) -> Pool:
    """The pool from ``folder``, built and written there first if it is missing."""
    digest = hashlib.sha256(f"{seed} {count} {mix} {tokenizer.to_str()}".encode()).hexdigest()[:12]
    path = folder / f"pool-{digest}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pool = build_pool(tokenizer, seed, count, mix, draw)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, ids=pool.ids.astype(np.int16), starts=pool.starts, prompts=pool.prompts)
        temporary.replace(path)
    with np.load(path) as data:
        return Pool(data["ids"].astype(np.int64), data["starts"], data["prompts"])
