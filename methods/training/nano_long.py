"""The recipe of nano-long: the same two phases as nano on long items, short items first.

At 256 tokens per item a processor core sees some ten thousand items per hour, so the first half of the
parent's steps goes from short items (few steps, branches and words) to full ones. Rates and weights are those
that nano's conversion was found to need (docs/nano-log.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.spec import ModelSpec
from harness.model.transformer import Transformer
from methods.training.data.batches import Batch, Stream
from methods.training.data.corpus import EOS, MASK, cached_pool, save_tokenizer
from methods.training.data.corpus_long import LongMix, items, train_tokenizer
from methods.training.data.corruption import Corruption, corrupt, diffusion_loss
from methods.training.export import nano_spec
from methods.training.loop.loop import LoopOptions, generator_for
from methods.training.nano import (
    GateError,
    Phase,
    RecipeOptions,
    autoregressive_loss,
    new_model,
    ship,
    train_phase,
)
from methods.training.validation import AR, Mode, require_jail
from methods.training.validation_long import CANVAS, PARALLEL_CANVAS, score_long

COMMAND = "bench train nano --preset long"
LONG_MODES = (*(Mode("block", k) for k in (1, 2, 4, 8)), *(Mode("full", k) for k in (1, 2, 4, 8)))
CHECK_MODES = tuple(Mode("block", k) for k in (1, 2, 4, 8))


def long_spec(vocab: int) -> ModelSpec:
    """Shape of nano-long: 2.7 million parameters. In float32 it trains nearly twice as fast as nano's shape
    (docs/nano-log.md).
    """
    return replace(nano_spec(vocab), hidden_size=192, intermediate_size=512, head_dim=48)


@dataclass(frozen=True)
class LongOptions(RecipeOptions):
    """The recipe; see `nano.NanoOptions` for what the fields mean.

    ``short_until``: share of the parent's steps over which short items give way to full ones; ``short_rest``:
    the share of short batches that stays; ``short_parallel``: share of parallel tasks among short items (a
    list is a tenth of the tokens of a problem, and copying, which all else rests on, is learned from lists
    first; docs/nano-log.md). ``gate``: least mean pass@1 of the parent. ``check_items`` per
    suite are decoded every ``validate_every`` steps on a canvas of ``check_canvas``. ``tokens`` of a phase
    are those of one of the ``accumulate`` batches of a step.
    """

    pool_items: int = 150_000
    short_until: float = 0.4
    short_rest: float = 0.1
    short_parallel: float = 0.7
    parent: Phase[LongMix] = field(
        default_factory=lambda: Phase(
            LoopOptions(7000, decay=0.5, save_every=50, accumulate=2),
            0.02,
            3e-3,
            LongMix(gsm=0.22, drills=0.05, parallel=0.5),
            1536,
        )
    )
    conversion: Phase[LongMix] = field(
        default_factory=lambda: Phase(
            LoopOptions(4000, decay=0.7, save_every=50, accumulate=2),
            0.005,
            8e-4,
            LongMix(gsm=0.24, drills=0.02, parallel=0.45),
            1536,
        )
    )
    gate: float = 0.6
    ar_share: float = 0.5
    ar_fade: float = 0.7
    corruption: Corruption = field(default_factory=lambda: Corruption(full_canvas=0.3, canvas=CANVAS))
    validate_every: int = 0
    check_items: int = 24
    check_canvas: int = 128
    validation_items: int = 64
    modes: tuple[Mode, ...] = LONG_MODES
    spec: ModelSpec | None = None


class Course(Stream):
    """Full items, and short ones in a share of the batches that falls from 1 to ``rest`` within ``until``
    batches.
    """

    def __init__(self, full: Stream, short: Stream, until: float, rest: float) -> None:
        self.pool, self.seed, self.tokens, self.eos = full.pool, full.seed, full.tokens, full.eos
        self.full, self.short, self.until, self.rest = full, short, until, rest

    def batch(self, step: int) -> Batch:
        share = max(self.rest, 1 - step / self.until) if self.until > 0 else self.rest
        chosen = self.short if generator_for(self.seed, step, 9).random() < share else self.full
        return chosen.batch(step)


def course_of(
    options: LongOptions, tokenizer: Tokenizer, phase: Phase[LongMix], number: int, until: float
) -> Course:
    """The batches of one phase; ``until`` as in `Course`, as a share of the phase's steps."""
    streams = []
    for short in (False, True):
        mix = phase.mix.shortened(options.short_parallel) if short else phase.mix
        pool = cached_pool(
            options.work, tokenizer, options.seed + 1, options.pool_items // (2 if short else 1), mix, items
        )
        streams.append(
            Stream(pool, options.seed + 5 + number, phase.tokens, tokenizer.token_to_id(EOS), shortest=24)
        )
    return Course(
        streams[0], streams[1], until * phase.loop.steps * phase.loop.accumulate, options.short_rest
    )


def long_tokenizer(options: LongOptions) -> Tokenizer:
    """The tokenizer of the recipe, trained once per work folder."""
    path = options.work / "tokenizer"
    if not (path / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(options.seed + 11), path)
    return Tokenizer.from_file(str(path / "tokenizer.json"))


def conversion_loss(
    model: Transformer, stream: Stream, number: int, mask_id: int, options: LongOptions
) -> Tensor:
    """Loss of batch ``number``: autoregressive with fading probability, else masked diffusion on the canvas
    of its items.
    """
    loop = options.conversion.loop
    share = options.ar_share * max(0.0, 1 - number / (options.ar_fade * loop.steps * loop.accumulate))
    batch = stream.batch(number)
    if generator_for(stream.seed, number, 3).random() < share:
        return autoregressive_loss(model, batch)
    small = (batch.ends - batch.prompts).max() <= PARALLEL_CANVAS
    corruption = replace(options.corruption, canvas=PARALLEL_CANVAS) if small else options.corruption
    return diffusion_loss(model, corrupt(stream, number, mask_id, corruption))


def train_nano_long(options: LongOptions) -> dict[str, float]:
    """Train nano-long-ar and nano-long and write both folders; returns nano-long's validation figures.

    Raises GateError if the parent's mean validation pass@1 is below ``options.gate``.
    """
    require_jail()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = long_tokenizer(options)
    model = new_model(options.spec or long_spec(tokenizer.get_vocab_size()), options.seed)
    figures, minutes = _parent(options, model, tokenizer)
    ship(options, model, tokenizer, "nano-long-ar", COMMAND, options.parent, minutes, figures)
    reached = sum(figures[f"{suite}/ar"] for suite in ("long-gsm", "long-code", "parallel")) / 3
    if reached < options.gate:
        raise GateError(
            f"the autoregressive parent reaches only {reached:.2f} on validation (gate {options.gate}); "
            "train it longer"
        )
    stream = course_of(options, tokenizer, options.conversion, 1, 0.0)
    loss = partial(conversion_loss, model, stream, mask_id=tokenizer.token_to_id(MASK), options=options)
    check = _check(options, model, tokenizer, CHECK_MODES)
    minutes = train_phase(
        "nano-long",
        model,
        options.conversion,
        loss,
        options.work / "diffusion",
        check,
        options.validate_every,
    )
    figures = score_long(model, tokenizer, options.modes, options.validation_items)
    ship(options, model, tokenizer, "nano-long", COMMAND, options.conversion, minutes, figures)
    return figures


def _parent(options: LongOptions, model: Transformer, tokenizer: Tokenizer) -> tuple[dict[str, float], float]:
    course = cache(partial(course_of, options, tokenizer, options.parent, 0, options.short_until))
    loss = lambda number: autoregressive_loss(model, course().batch(number))  # noqa: E731 (a finished phase needs no pool)
    check = _check(options, model, tokenizer, (AR,))
    minutes = train_phase(
        "nano-long-ar", model, options.parent, loss, options.work / "ar", check, options.validate_every
    )
    return score_long(model, tokenizer, (AR,), options.validation_items), minutes


def _check(
    options: LongOptions, model: Transformer, tokenizer: Tokenizer, modes: tuple[Mode, ...]
) -> Callable[[int], dict[str, float]]:
    return lambda _: score_long(model, tokenizer, modes, options.check_items, canvas=options.check_canvas)
