"""Validation while training: batched greedy decoders and graders, kept apart from the harness.

These loops are deliberately plain (no cache, no early exit but end of text). They serve the choices
made during training on the validation sets; published figures come from the harness.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.transformer import Transformer
from methods.training.data.corpus import BOS, EOS, MASK
from methods.training.precision import fast_products
from suites.generators import Split, code, frozen, gsm

CANVAS = 48
BLOCK = 8


@dataclass(frozen=True)
class Mode:
    """How to fill the canvas: ``per_step`` tokens at a time, or all above ``threshold``.

    ``kind`` is ``"ar"``, ``"full"`` (any place of the canvas) or ``"block"`` (blocks of ``block``, left to
    right); order is by neg-entropy, or by top probability where there is a threshold.
    """

    kind: str
    per_step: int = 1
    threshold: float | None = None
    block: int = BLOCK

    def __str__(self) -> str:
        rate = f"t{self.threshold}" if self.threshold is not None else str(self.per_step)
        size = str(self.block) if self.kind == "block" and self.block != BLOCK else ""
        return self.kind if self.kind == "ar" else f"{self.kind}{size}-{rate}"


@dataclass(frozen=True)
class D2FMode:
    """Pipelined block-causal decoding: add a block at ``add``, activate it fully at ``act``, accept above ``confidence``."""

    add: float = 0.1
    act: float = 0.95
    confidence: float = 0.9
    block: int = 8

    def __str__(self) -> str:
        return f"d2f-{self.add:g}-{self.act:g}-{self.confidence:g}"


AR = Mode("ar")
DIFFUSION_MODES = (
    *(Mode("full", k) for k in (1, 2, 4, 8)),
    *(Mode("block", k) for k in (1, 2, 4, 8)),
    Mode("block", threshold=0.9),
    Mode("full", threshold=0.9),
)


@dataclass(frozen=True)
class Rows:
    """Prompts laid out with a canvas after each: ``ids`` [rows, length], ``starts`` [rows]."""

    ids: Tensor
    starts: Tensor
    eos: int
    mask: int

    @property
    def offsets(self) -> Tensor:
        """Position minus canvas start, [rows, length]."""
        return torch.arange(self.ids.shape[1])[None] - self.starts[:, None]


def layout(tokenizer: Tokenizer, prompts: list[str], canvas: int = CANVAS) -> Rows:
    eos, bos, mask = (tokenizer.token_to_id(name) for name in (EOS, BOS, MASK))
    encoded = [[bos, *tokenizer.encode(prompt).ids] for prompt in prompts]
    starts = torch.tensor([len(row) for row in encoded])
    ids = torch.full((len(encoded), int(starts.max()) + canvas), eos)
    for i, row in enumerate(encoded):
        ids[i, : len(row)] = torch.tensor(row)
        ids[i, len(row) : len(row) + canvas] = mask
    return Rows(ids, starts, eos, mask)


@torch.no_grad()
def decode(model: Transformer, rows: Rows, mode: Mode, canvas: int = CANVAS) -> tuple[Tensor, float]:
    """Fill every canvas; returns new ids [rows, canvas] and the mean forwards per row."""
    ids, offsets = rows.ids.clone(), rows.offsets
    inside = (offsets >= 0) & (offsets < canvas)
    forwards = torch.zeros(len(ids))
    for _ in range(canvas * 2):
        masked = (ids == rows.mask) & inside & ~_finished(ids, rows, inside, mode)[:, None]
        if not masked.any():
            break
        live = masked.any(1)
        forwards += live
        chosen, tokens = _choose(model, ids[live], offsets[live], masked[live], mode, canvas)
        updated = ids[live]
        updated[chosen] = tokens[chosen]
        ids[live] = updated
    return torch.stack([row[start : start + canvas] for row, start in zip(ids, rows.starts.tolist(), strict=True)]), float(forwards.mean())


def _finished(ids: Tensor, rows: Rows, inside: Tensor, mode: Mode) -> Tensor:
    """Rows whose text before the first eos is complete, [rows]; a full canvas never stops early."""
    if mode.kind == "full":
        return torch.zeros(len(ids), dtype=torch.bool)
    ended = ((ids == rows.eos) & inside).cumsum(1) > 0
    open_text = (ids == rows.mask) & inside & ~ended
    return ended.any(1) & ~open_text.any(1)


def _choose(model: Transformer, ids: Tensor, offsets: Tensor, masked: Tensor, mode: Mode, canvas: int) -> tuple[Tensor, Tensor]:
    length, mask_id = ids.shape[1], int(ids[masked][0])
    visible = (offsets < canvas)[:, None, None, :]
    if mode.kind == "ar":
        visible = visible & torch.ones(length, length, dtype=torch.bool).tril()
    if mode.kind != "full":
        width = 1 if mode.kind == "ar" else mode.block
        current = torch.where(masked, offsets // width, 10**6).min(1, keepdim=True).values
        masked = masked & (offsets // width == current)
    at = masked.flatten().nonzero().squeeze(1)
    with fast_products():
        logits = model.head(model.hidden(ids, mask=visible).flatten(0, 1)[at - 1]).float()  # the Dream shift
    logits[:, mask_id] = -torch.inf  # a mask is never an answer
    probability = logits.softmax(-1)
    top, token = probability.max(-1)
    by_entropy = (probability * (probability + 1e-10).log()).sum(-1)
    order = torch.full(ids.shape, -torch.inf).flatten().scatter(0, at, top if mode.threshold is not None else by_entropy).view(ids.shape)
    tokens = ids.flatten().scatter(0, at, token).view(ids.shape)
    chosen = torch.zeros_like(masked)
    chosen.scatter_(1, order.topk(mode.per_step if mode.threshold is None else 1, dim=1).indices, True)
    if mode.threshold is not None:
        chosen |= order >= mode.threshold
    return chosen & masked, tokens


def texts(tokenizer: Tokenizer, ids: Tensor, eos: int) -> list[str]:
    """Text before the first eos of each row."""
    rows = [row[: row.index(eos)] if eos in row else row for row in ids.tolist()]
    return tokenizer.decode_batch(rows)


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def passes(program: str, seconds: float = 4.0) -> bool:
    """Whether ``program`` exits cleanly in a separate process with time, memory and file limits."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-S", "-"]
        source = (program + "\nprint('all tests passed')").encode(errors="replace")  # by stdin: an argument cannot hold a null byte
        try:
            done = subprocess.run(
                command, cwd=folder, env={}, input=source, capture_output=True, timeout=seconds, preexec_fn=_limits, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.endswith(b"all tests passed\n")


def grade(suite: str, item: dict[str, Any], response: str) -> bool:
    """Whether ``response`` is right: the answer after ``####``, or the executed tests."""
    if suite == "gsm":
        return gsm.is_correct(response, item["answer"])
    return passes(code.program(item["prompt"], response, item["tests"]))


@torch.no_grad()
def decode_d2f(model: Transformer, rows: Rows, mode: D2FMode, canvas: int = CANVAS) -> tuple[Tensor, float]:
    """D2F decoding by full recomputation (its cache is exact, so tokens are the same as with one)."""
    ids = rows.ids.clone()
    block = torch.where(rows.offsets < 0, 0, rows.offsets // mode.block + 1)
    attend = (block[:, :, None] >= block[:, None, :])[:, None]
    added, forwards = torch.zeros(len(ids), dtype=torch.long), torch.zeros(len(ids))
    full = torch.zeros(len(ids), canvas // mode.block + 2, dtype=torch.bool)
    full[:, 1] = True
    for _ in range(canvas * 2):
        done = _decoded_ratio(ids, block, rows.mask, full.shape[1])
        ended = ((ids == rows.eos) & (block > 0) & (block <= added[:, None])).any(1)
        grow = (added < canvas // mode.block) & ~ended & (done.gather(1, added[:, None])[:, 0] >= mode.add)
        added += grow
        full[:, 1:] |= done[:, :-1] >= mode.act
        masked = (ids == rows.mask) & (block > 0) & (block <= added[:, None])
        if not masked.any():
            break
        forwards += masked.any(1)
        at = masked.flatten().nonzero().squeeze(1)
        with fast_products():
            logits = model.head(model.hidden(ids, mask=attend).flatten(0, 1)[at - 1]).float()
        logits[:, rows.mask] = -torch.inf
        ids.view(-1)[at] = _accept(logits, at, block, full, rows.mask, mode.confidence)
    ids[(ids == rows.mask) & (block > added[:, None])] = rows.eos
    return torch.stack([row[start : start + canvas] for row, start in zip(ids, rows.starts.tolist(), strict=True)]), float(forwards.mean())


def _decoded_ratio(ids: Tensor, block: Tensor, mask_id: int, blocks: int) -> Tensor:
    """Share of decoded tokens per block [rows, blocks]; the prompt (block 0) counts as decoded."""
    sizes = torch.zeros(len(ids), blocks).scatter_add(1, block.clamp(max=blocks - 1), torch.ones(ids.shape))
    masks = torch.zeros(len(ids), blocks).scatter_add(1, block.clamp(max=blocks - 1), (ids == mask_id).float())
    ratio = 1 - masks / sizes.clamp(min=1)
    ratio[:, 0] = 1.0
    return ratio


def _accept(logits: Tensor, at: Tensor, block: Tensor, full: Tensor, mask_id: int, confidence: float) -> Tensor:
    """Tokens for the flat positions ``at``: those above ``confidence``, else the best of each full block."""
    top, token = logits.softmax(-1).max(-1)
    accepted = top > confidence
    group = (at // block.shape[1]) * full.shape[1] + block.flatten()[at]
    best = torch.full((full.numel(),), -1.0).scatter_reduce(0, group, top, "amax")
    any_accepted = torch.zeros(full.numel()).scatter_reduce(0, group, accepted.float(), "amax") > 0
    accepted |= full.flatten()[group] & ~any_accepted[group] & (top == best[group])
    return torch.where(accepted, token, mask_id)


def score(
    model: Transformer, tokenizer: Tokenizer, modes: Sequence[Mode | D2FMode], count: int = 96, split: Split = "validation"
) -> dict[str, float]:
    """pass@1 (``gsm/full-1``) and forwards (``gsm/full-1/nfe``) on the first ``count`` items per suite and mode."""
    figures: dict[str, float] = {}
    for suite in ("gsm", "code"):
        items = frozen.load(suite, split)[:count]
        rows = layout(tokenizer, [item["prompt"] for item in items])
        for mode in modes:
            ids, forwards = decode_d2f(model, rows, mode) if isinstance(mode, D2FMode) else decode(model, rows, mode)
            right = [grade(suite, item, text) for item, text in zip(items, texts(tokenizer, ids, rows.eos), strict=True)]
            figures[f"{suite}/{mode}"] = round(sum(right) / len(right), 3)
            figures[f"{suite}/{mode}/nfe"] = round(forwards, 1)
    return figures
