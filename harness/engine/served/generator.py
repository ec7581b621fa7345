"""Opening an engine, and a Generator that hands whole prompts to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import torch

from harness.decoding.registry import Method
from harness.decoding.settings import build_config
from harness.engine.generator import Generation, Generator
from harness.engine.held import Held
from harness.engine.loader import Loaded
from harness.engine.opening import Opened, Weights, Wish, settings_for
from harness.engine.served.engines import Engine, EngineError, Question, Server
from harness.engine.served.finding import find_engine
from harness.errors import UserError
from harness.measuring.served import Answered, answered, timed
from harness.model.catalog import location, lookup, own_adapter
from harness.model.checkpoint import adds_bos, model_hash
from harness.model.device import pick_device
from harness.model.load import resolve, stored_numbers
from harness.model.outline import read_outline
from harness.model.text import answer_of_blocks
from harness.model.tokenizer import load_tokenizer, tokenizer_hash
from harness.records.files import digest

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class ServedHeld(Held):
    """The weights of an engine, which is started at first use and holds them itself."""

    def __init__(self, open_: Any, spec: Any, dtype: torch.dtype, device: torch.device, size: Any) -> None:
        super().__init__(open_, spec, dtype, device, size)
        self._server: Server | None = None

    @property
    def in_memory(self) -> bool:
        return self._server is not None

    @property
    def size(self) -> int:
        return self._size()

    @property
    def server(self) -> Server:
        """The engine, started if it is not running."""
        if self._server is None:
            started = time.perf_counter()
            self._server = cast("Any", self._open)()
            self.load_s = time.perf_counter() - started
        return cast("Server", self._server)

    def get(self) -> Any:
        return self.server

    def release(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None


class ServedGenerator(Generator):
    """Answers by an engine. Batches, prompts, text and useful tokens are the harness' as for every run."""

    def _decode(self, batch: list[Generation], live: int | None = None) -> list[Generation]:
        held, first = cast("ServedHeld", self.loaded.held), batch[0].request
        questions = [
            Question(str(item.request.prompt), item.prompt_ids, seed)
            for item in batch
            for seed in [self.row_seed(item.prompt_ids, item.request.repeat)]
        ]
        started = time.perf_counter()
        try:
            self._check(batch)
            server = held.server
            replies, elapsed = timed(lambda: server.answer(questions, first.canvas))
            if len(replies) != len(batch):
                raise EngineError(f"the engine gave {len(replies)} answers to {len(batch)} prompts")
        except Exception as error:
            if len(batch) > 1:
                return [done for item in batch for done in self._decode([item])]
            batch[0].status, batch[0].spent_s = "error", time.perf_counter() - started
            batch[0].error = f"{type(error).__name__}: {error}".splitlines()[0]
            return batch
        for item, reply in zip(batch, replies, strict=True):
            row = answered(reply.ids, item.prompt_ids, reply.prompt_tokens, first.canvas, elapsed, len(batch))
            self._read(item, row)
        return batch

    def _check(self, batch: list[Generation]) -> None:
        room = self.loaded.spec.max_positions - batch[0].request.canvas
        if long := [item for item in batch if len(item.prompt_ids) > room]:
            raise EngineError(
                f"prompt of {len(long[0].prompt_ids)} tokens and canvas of {batch[0].request.canvas} exceed "
                f"the model's context of {self.loaded.spec.max_positions}: lower it with --set "
                "max_new_tokens=N"
            )

    def _read(self, item: Generation, row: Answered) -> None:
        item.answered = row
        ids, stops = row.output, item.request.stops
        useful, item.text = answer_of_blocks(
            self.loaded.tokenizer, ids, [0] * len(ids), [(0, len(ids))], self.loaded.spec.eos_ids, stops
        )
        item.useful = sum(useful)
        if failed := [check for check in row.checks if not check.passed]:
            item.status = "audit_failed"
            item.error = "; ".join(f"{check.name}: {check.detail}" for check in failed)


def open_served(name: str, weights: Weights, pairs: Mapping[str, str], rows: int, seed: int = 0) -> Opened:
    """An engine with a model, ready to answer ``rows`` prompts at a time; it is started when it is needed.

    EngineError where it is not installed, or for a flag that it cannot follow.
    """
    engine = find_engine(name)
    engine.module()
    dtype = _refuse(engine, weights)
    method = Method(cast("Any", engine), "built-in")
    settings = settings_for(Wish(name), method, weights.model, pairs, set())
    config = build_config(name, engine.Config, settings)
    loaded = _loaded(name, weights.model, dtype, pick_device(weights.device), config, rows, seed)
    return Opened(method, ServedGenerator(loaded, method.decoder, settings, seed=seed, stop_rule="reference"))


def _refuse(engine: Engine, weights: Weights) -> str:
    """The precision that is asked for; EngineError for what the engine has no part in."""
    who = f"--engine {engine.name}"
    dtype = "bfloat16" if weights.dtype == "auto" else weights.dtype
    if dtype not in engine.dtypes:
        raise EngineError(f"--dtype {dtype}: {who} takes auto, {', '.join(engine.dtypes)}")
    if weights.adapter not in (None, "none") or own_adapter(weights.model) is not None:
        raise EngineError(f"{who} serves whole checkpoints: leave --adapter out and pass --model FOLDER")
    if weights.family is not None:
        raise EngineError(f"{who} builds the layers itself: leave --family out")
    if weights.attention != "auto" or weights.compiled:
        raise EngineError(f"{who} has kernels of its own: leave --attention and --compile out")
    if weights.device_map is not None:
        raise EngineError(f"{who} places its layers itself: leave --device-map out")
    if pick_device(weights.device).index:
        raise EngineError(f"{who} takes the first card that it sees: set CUDA_VISIBLE_DEVICES, not --device")
    return dtype


@lru_cache(maxsize=4)
def _loaded(
    name: str, model: str, dtype: str, device: torch.device, config: Any, rows: int, seed: int
) -> Loaded:
    """One engine for all suites of an invocation."""
    engine, folder = find_engine(name), resolve(location(model))
    spec, raw = read_outline(folder)
    known = lookup(model)

    def start() -> Server:
        try:
            return engine.start(location(model), config, dtype, rows, seed)
        except UserError:
            raise
        except Exception as error:
            raise EngineError(
                f"--engine {name} {engine.version} could not start with {model} "
                f"({type(error).__name__}: {error}): it serves what its own documentation lists"
            ) from error

    return Loaded(
        held=ServedHeld(
            start, spec, getattr(torch, dtype), device, lambda: _BYTES[dtype] * stored_numbers(folder)
        ),
        tokenizer=load_tokenizer(folder),
        model=model,
        checkpoint=model,
        weights_hash=model_hash(model),
        tokenizer_hash=tokenizer_hash(folder),
        canvas=known.canvas,
        add_bos=adds_bos(model, folder),
        canvas_trained=known.canvas_trained,
        config_hash=digest(raw),
    )
