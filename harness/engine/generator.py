"""Requests in, graded-ready generations out: batching, seeds, text. Shared by every front end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.decoding.backbone import TooManyForwards
from harness.decoding.decoder import Decoder, RowDecoder
from harness.decoding.rules import CanvasError
from harness.decoding.settings import SettingError, build_config, with_text_ids
from harness.engine.loader import Loaded
from harness.errors import UserError
from harness.measuring.clock import ContextError, Decoded, decode
from harness.measuring.served import Answered
from harness.model.text import StopStrings, answer_of_blocks, encode
from harness.records.schema import Status, StopRule

DEFAULT_CANVAS = 256
"""New tokens where neither the user nor the suite nor the model says how many."""


@dataclass(frozen=True)
class Request:
    """One prompt to answer. ``canvas`` is its length in new tokens, ``settings`` override the run's.

    ``blocks``: lengths of reasoning and answer where the canvas is laid out in them; empty: one text.
    """

    prompt: str | Sequence[int]
    canvas: int
    stops: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0
    blocks: tuple[int, ...] = ()


@dataclass
class Generation:
    """A request's answer: ``decoded`` is None and ``error`` says why if nothing could be decoded.

    ``block_useful``: the useful ids of each block of a divided answer; empty: one text. ``answered``: what is
    known of an answer that an engine decoded by itself, in place of ``decoded``.
    """

    request: Request
    prompt_ids: list[int]
    decoded: Decoded | None
    text: str | None = None
    useful: int | None = None
    block_useful: list[int] = field(default_factory=list)
    error: str | None = None
    status: Status = "ok"
    spent_s: float | None = None
    answered: Answered | None = None

    @property
    def row(self) -> Decoded | Answered | None:
        """Ids and clock of the answer, whoever decoded it; None where there is none."""
        return self.decoded or self.answered


class Generator:
    """One (model, decoder, settings) that answers requests in batches."""

    def __init__(
        self,
        loaded: Loaded,
        decoder: Decoder,
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        stop_rule: StopRule = "harness",
    ) -> None:
        self.loaded, self.decoder, self.seed = loaded, decoder, seed
        self.stop_rule: StopRule = stop_rule
        self.settings = dict(settings)
        self.config = self._configured(self.settings)

    def _configured(self, settings: Mapping[str, Any]) -> Any:
        """The decoder's Config; ids that its settings leave to the tokenizer are looked up there."""
        config = build_config(self.decoder.name, self.decoder.Config, settings)
        tokenizer = self.loaded.tokenizer
        return (
            config
            if tokenizer is None
            else with_text_ids(config, tokenizer.get_vocab(), lambda token: tokenizer.decode([token]))
        )

    def canvas(
        self, suite: int | None = None, blocks: Sequence[int] = (), default: int = DEFAULT_CANVAS
    ) -> int:
        """max_new_tokens: what the blocks need, else the setting, the suite's, the model's own, the default.

        A suite's canvas beyond what the model was trained for (``canvas_trained`` of the catalogue) is cut to
        that.

        Raises SettingError for a setting that contradicts the blocks, or that the decoder refuses for this
        model and canvas.
        """
        asked = getattr(self.config, "max_new_tokens", None)
        if blocks and asked not in (None, sum(blocks)):
            layout = " + ".join(map(str, blocks))
            raise SettingError(
                f"max_new_tokens {asked} contradicts a canvas of {layout} tokens in blocks: leave "
                "max_new_tokens out"
            )
        length, trained = suite or self.loaded.canvas or default, self.loaded.canvas_trained
        length = sum(blocks) or asked or (min(length, trained) if trained else length)
        if (check := getattr(self.decoder, "check", None)) is not None:
            check(self.loaded.spec, self.config, length)
        return length

    def check_fits(self, prompts: Sequence[str], canvas: int) -> None:
        """ContextError if not one of the prompts fits the model's context together with the canvas (a single
        one that does not is an answer with that error)."""
        room = self.loaded.spec.max_positions - canvas
        if prompts and not any(len(self.prompt_ids(prompt)) <= room for prompt in prompts):
            shortest = min(len(self.prompt_ids(prompt)) for prompt in prompts)
            text = (
                f"no prompt of this suite (the shortest has {shortest} tokens) fits with a canvas of "
                f"{canvas} into the model's context"
            )
            raise ContextError(
                f"{text} of {self.loaded.spec.max_positions}: lower it with --set max_new_tokens=N"
            )

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return encode(self.loaded.tokenizer, prompt, self.loaded.add_bos)
        return list(prompt)

    def check_continuous(self) -> None:
        """SettingError for a decoder whose loop is not the harness' own: rows cannot join it on the way."""
        if getattr(type(self.decoder), "decode", None) is RowDecoder.decode:
            return
        glass = hasattr(self.decoder, "glass")
        raise SettingError(
            f"--continuous: {self.decoder.name} "
            + (
                "runs behind glass, where every row has a process from the start: use --no-isolate, or leave "
                "--continuous out"
                if glass
                else "has a loop of its own; leave --continuous out, or write it as a RowDecoder"
            )
        )

    def run(
        self, requests: Sequence[Request], batch_size: int, live: int | None = None
    ) -> Iterator[list[Generation]]:
        """Decode in order, yielding each batch as soon as it is done. ``live``: rows of a batch that are
        decoded at once (see harness.decoding.canvas).

        Only neighbours with the same canvas, stop strings and settings share a batch. A prompt that does not
        fit, a crash of the decoder, running out of memory or of forward passes is an answer with that status,
        never the end of the run; contradictory settings (UserError) are.
        """
        batch: list[Generation] = []
        for request in requests:
            item = Generation(request, self.prompt_ids(request.prompt), None)
            if batch and (len(batch) == batch_size or not _alike(batch[0].request, request)):
                yield self._decode(batch, live)
                batch = []
            batch.append(item)
        if batch:
            yield self._decode(batch, live)

    def _decode(self, batch: list[Generation], live: int | None = None) -> list[Generation]:
        first = batch[0].request
        config = self.config
        if first.settings:
            config = self._configured({**self.settings, **first.settings})
        started = time.perf_counter()
        seeds = [self.row_seed(item.prompt_ids, item.request.repeat) for item in batch]
        try:
            rows = decode(
                self.loaded.backbone,
                self.decoder,
                config,
                [item.prompt_ids for item in batch],
                first.canvas,
                stop_rule=self.stop_rule,
                seeds=seeds,
                blocks=first.blocks,
                stops=StopStrings(self.loaded.tokenizer, first.stops)
                if first.stops and self.loaded.tokenizer is not None
                else None,
                live=live,
            )
        except ContextError as error:
            if len(batch) > 1:
                return [done for item in batch for done in self._decode([item])]
            batch[0].status, batch[0].error = "error", str(error)
            return batch
        except UserError:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [done for item in batch for done in self._decode([item])]
            batch[0].status, batch[0].error = (
                _failure(error),
                f"{type(error).__name__}: {error}".splitlines()[0],
            )
            batch[0].spent_s = time.perf_counter() - started
            return batch
        for item, row in zip(batch, rows, strict=True):
            self._finish(item, row)
        return batch

    def _finish(self, item: Generation, row: Decoded) -> None:
        item.decoded = row
        eos_ids, stops = self.loaded.spec.eos_ids, item.request.stops
        marked = bool(item.request.blocks)
        useful, item.text = answer_of_blocks(
            self.loaded.tokenizer, row.output, row.step_map, row.spans, eos_ids, stops, marked
        )
        item.useful, item.block_useful = sum(useful), useful if len(useful) > 1 else []
        if not row.audit_passed:
            item.status = "audit_failed"
            item.error = "; ".join(
                f"{check.name}: {check.detail}" for check in row.checks if not check.passed
            )

    def row_seed(self, prompt: Sequence[int], repeat: int) -> int:
        """The random stream of a row depends on the run's seed, its prompt and repeat, never on its batch."""
        digest = hashlib.sha256(f"{self.seed}/{repeat}/{list(prompt)}".encode()).digest()
        return int.from_bytes(digest[:7], "big")


def _failure(error: Exception) -> Status:
    if isinstance(error, CanvasError):
        return "audit_failed"
    if isinstance(error, TooManyForwards):
        return "timeout"
    return "oom" if isinstance(error, MemoryError) or "out of memory" in str(error).lower() else "error"


def _alike(one: Request, other: Request) -> bool:
    return (one.canvas, one.blocks, one.stops, dict(one.settings)) == (
        other.canvas,
        other.blocks,
        other.stops,
        dict(other.settings),
    )
