"""Training rows on a canvas of reasoning and answer, and validation on the suites that have one.

A row is a prompt, R padded with end-of-text to its block's length, then A likewise, as nano-gsm-ra and nano-code-ra lay it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from harness.decoding.backbone import Backbone
from harness.measuring.clock import Decoded, decode
from harness.model.text import before_eos
from harness.model.transformer import Transformer
from methods import d2f, fast_dllm, lockstep, vanilla
from methods.training.data.corpus import BOS, EOS, Pool
from methods.training.evaluate import grade
from suites.generators import Split, code, frozen, gsm
from suites.suite import load_suite

BATCH = 32
FULL: dict[str, tuple[Any, Any]] = {
    "vanilla": (vanilla.METHOD, vanilla.Config()),
    "fast_dllm": (fast_dllm.METHOD, fast_dllm.Config(block_length=8)),
    "lockstep": (lockstep.METHOD, lockstep.Config()),
    "lockstep-gs": (lockstep.METHOD, lockstep.Config(mode="gauss_seidel")),
    "lockstep-N8": (lockstep.METHOD, lockstep.Config(steps=8)),
    "lockstep-N4": (lockstep.METHOD, lockstep.Config(steps=4)),
}
BLOCK_CAUSAL: dict[str, tuple[Any, Any]] = {
    "d2f": (d2f.METHOD, d2f.Config(block_size=8)),
    "lockstep-causal": (lockstep.METHOD, lockstep.Config(attention="block_causal", block_size=8, prompt_cache=True)),
}


@cache
def suite_blocks() -> dict[str, tuple[int, ...]]:
    """Tokens of R and A on the canvas of each suite."""
    return {name: load_suite(f"nano-{name}-ra").blocks for name in ("gsm", "code")}


def seams(lengths: np.ndarray) -> np.ndarray:
    """Where A starts on canvases of these lengths [rows]: the length tells the suite."""
    return np.vectorize({sum(blocks): blocks[0] for blocks in suite_blocks().values()}.__getitem__)(lengths)


def items(seed: int, count: int, share: float) -> Iterator[tuple[str, str, str, str]]:
    """``count`` training problems as (suite, prompt, R, A), a ``share`` of them gsm; the same for the same arguments."""
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
        parts = [ids + [eos] * (length - len(ids)) for ids, length in zip((r.ids, a.ids), blocks[suite], strict=True)]
        rows.append([bos, *prompt.ids, *parts[0], *parts[1]])
    starts = np.cumsum([0, *map(len, rows)])
    ids = np.fromiter((token for row in rows for token in row), np.int64, int(starts[-1]))
    return Pool(ids, starts, np.array([1 + len(prompt.ids) for prompt in prompts]))


def score_blocks(
    model: Transformer, folder: Path, modes: dict[str, tuple[Any, Any]], count: int, split: Split = "validation"
) -> dict[str, float]:
    """pass@1 (``gsm/vanilla``) and forwards (``gsm/vanilla/nfe``) on the first ``count`` items of each suite, under the harness' rules.

    ``folder`` holds the tokenizer, ``modes`` decoders and their settings. The answer block alone is graded.
    """
    tokenizer, backbone = Tokenizer.from_file(str(folder / "tokenizer.json")), Backbone(model, torch.device("cpu"), torch.float32)
    bos, figures = tokenizer.token_to_id(BOS), dict[str, float]()
    for suite, blocks in suite_blocks().items():
        rows = frozen.load(suite, split)[:count]
        prompts = [[bos, *tokenizer.encode(row["prompt"]).ids] for row in rows]
        for name, (decoder, config) in modes.items():
            chunks = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
            done = [row for chunk in chunks for row in decode(backbone, decoder, config, chunk, sum(blocks), blocks=blocks)]
            right = [grade(suite, row, _answer(tokenizer, one)) for row, one in zip(rows, done, strict=True)]
            figures[f"{suite}/{name}"] = round(sum(right) / len(right), 3)
            figures[f"{suite}/{name}/nfe"] = round(sum(one.nfe for one in done) / len(done), 1)
    return figures


def _answer(tokenizer: Tokenizer, row: Decoded) -> str:
    start, stop = row.spans[1]
    return tokenizer.decode(before_eos(row.output[start:stop], row.step_map[start:stop], [tokenizer.token_to_id(EOS)]))
