"""Training rows on a canvas of reasoning and answer.

A row is a prompt, R padded with end-of-text to its block's length, then A likewise, as nano-gsm-ra and
nano-code-ra lay it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import numpy as np
from tokenizers import Tokenizer

from methods.training.data.corpus import BOS, EOS, Pool
from suites.generators import code, gsm
from suites.suite import load_suite


@cache
def suite_blocks() -> dict[str, tuple[int, ...]]:
    """Tokens of R and A on the canvas of each suite."""
    return {name: load_suite(f"nano-{name}-ra").blocks for name in ("gsm", "code")}


def seams(lengths: np.ndarray) -> np.ndarray:
    """Where A starts on canvases of these lengths [rows]: the length tells the suite."""
    return np.vectorize({sum(blocks): blocks[0] for blocks in suite_blocks().values()}.__getitem__)(lengths)


def items(seed: int, count: int, share: float) -> Iterator[tuple[str, str, str, str]]:
    """``count`` training problems as (suite, prompt, R, A), a ``share`` of them gsm; the same for the same
    arguments.
    """
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < share:
            item = gsm.generate(rng, "train")
            yield "gsm", item.prompt, *gsm.blocks(item.response)
        else:
            planned = code.generate(rng, "train", with_tests=False, plan=True)
            plan, _, body = planned.response.partition("\n")
            yield "code", planned.prompt, plan, body


def block_pool(tokenizer: Tokenizer, seed: int, count: int, share: float = 0.6) -> Pool:
    """Tokenised rows, every block padded with end-of-text (at least one) to its length."""
    bos, eos, blocks = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS), suite_blocks()
    drawn = list(items(seed, count, share))
    prompts, reasoning, answers = (tokenizer.encode_batch_fast([row[k] for row in drawn]) for k in (1, 2, 3))
    rows = []
    for (suite, *_), prompt, r, a in zip(drawn, prompts, reasoning, answers, strict=True):
        parts = [
            ids + [eos] * (length - len(ids))
            for ids, length in zip((r.ids, a.ids), blocks[suite], strict=True)
        ]
        rows.append([bos, *prompt.ids, *parts[0], *parts[1]])
    starts = np.cumsum([0, *map(len, rows)])
    ids = np.fromiter((token for row in rows for token in row), np.int64, int(starts[-1]))
    return Pool(ids, starts, np.array([1 + len(prompt.ids) for prompt in prompts]))
