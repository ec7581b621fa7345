"""Validation of nano-long: the decoders of `evaluate` on longer canvases, and an autoregressive one with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer, attention
from methods.training.evaluate import Mode, Rows, decode, layout, passes, texts
from methods.training.precision import fast_products
from suites.generators import Split, code, frozen, gsm, parallel

CANVAS = 256
PARALLEL_CANVAS = 16
SUITES = tuple(suite for suite in frozen.DRAWS if suite.startswith(("long", "parallel")))


def canvas_of(suite: str) -> int:
    return PARALLEL_CANVAS if suite.startswith("parallel") else CANVAS


def grade(suite: str, item: dict[str, Any], response: str) -> bool:
    """Whether ``response`` solves the item of one of ``SUITES``."""
    if suite == "long-gsm":
        return gsm.is_correct(response, item["answer"])
    if suite == "long-code":
        return passes(code.program(item["prompt"], response, item["tests"]))
    return parallel.is_correct(item, response)


class _Keys:
    """Keys and values [2, rows, length, kv_heads, head_dim] per layer; a pass writes those of rows ``live`` at places ``at`` [live, query],
    which see everything up to themselves."""

    def __init__(self, spec: ModelSpec, rows: int, length: int) -> None:
        self.stores = [torch.zeros(2, rows, length, spec.num_kv_heads, spec.head_dim) for _ in range(spec.num_layers)]
        self.live = torch.arange(rows)
        self.at = torch.empty(0, dtype=torch.long)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `harness.model.transformer.Attend`."""
        store, stop = self.stores[layer], int(self.at.max()) + 1
        for side, new in zip(store, (key, value), strict=True):
            side[self.live[:, None], self.at] = new.transpose(1, 2).float()
        keys, values = store[:, self.live, :stop].transpose(2, 3).to(key.dtype)
        return attention(query, keys, values, (torch.arange(stop) <= self.at[..., None])[:, None])


@torch.no_grad()
def decode_left_to_right(model: Transformer, rows: Rows, canvas: int) -> tuple[Tensor, float]:
    """Greedy autoregressive decoding with a cache: new ids [rows, canvas] and the mean forwards per row."""
    count, widest = len(rows.starts), int(rows.starts.max())
    keys = _Keys(model.spec, count, widest + canvas)
    out = torch.full((count, canvas), rows.eos)
    forwards = torch.ones(count)
    with fast_products():
        keys.at = torch.arange(widest).expand(count, widest)
        hidden = model.hidden(rows.ids[:, :widest], attend=keys)[torch.arange(count), rows.starts - 1]
        for place in range(canvas):
            logits = model.head(hidden).float()
            logits[:, rows.mask] = -torch.inf
            token = logits.argmax(-1)
            out[keys.live, place] = token
            keys.live, token = keys.live[token != rows.eos], token[token != rows.eos]
            if not len(token) or place + 1 == canvas:
                break
            forwards[keys.live] += 1
            keys.at = (rows.starts[keys.live] + place)[:, None]
            hidden = model.hidden(token[:, None], keys.at, attend=keys)[:, 0]
    return out, float(forwards.mean())


def score_long(
    model: Transformer,
    tokenizer: Tokenizer,
    modes: Sequence[Mode],
    count: int = 64,
    split: Split = "validation",
    canvas: int = CANVAS,
    batch: int = 32,
) -> dict[str, float]:
    """pass@1 (``long-gsm/block-1``) and forwards (``long-gsm/block-1/nfe``) on the first ``count`` items per suite and mode.

    A parallel task counts a quarter of the items each; ``parallel`` is the mean of the six. ``canvas``: of the long suites.
    """
    figures: dict[str, float] = {}
    for mode in modes:
        for suite in SUITES:
            parallels = suite.startswith("parallel")
            items = frozen.load(suite, split)[: max(1, count // 4) if parallels else count]
            new = PARALLEL_CANVAS if parallels else canvas
            right, spent = 0, 0.0
            for start in range(0, len(items), batch):
                part = items[start : start + batch]
                rows = layout(tokenizer, [item["prompt"] for item in part], new)
                ids, forwards = decode_left_to_right(model, rows, new) if mode.kind == "ar" else decode(model, rows, mode, new)
                right += sum(grade(suite, item, text) for item, text in zip(part, texts(tokenizer, ids, rows.eos), strict=True))
                spent += forwards * len(part)
            figures[f"{suite}/{mode}"] = round(right / len(items), 3)
            figures[f"{suite}/{mode}/nfe"] = round(spent / len(items), 1)
        for end in ("", "/nfe"):
            tasks = [figures[f"parallel-{task}/{mode}{end}"] for task in parallel.TASKS]
            figures[f"parallel/{mode}{end}"] = round(sum(tasks) / len(tasks), 3)
    return figures
