"""What every training recipe shares: resumable loop, checkpoints, loss log, progress.

A recipe is a function ``loss(step) -> Tensor`` whose randomness is keyed by (seed, step); then model,
optimiser state and step number are the whole state, and a run killed at any moment continues to the
same weights.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import PickleError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.records.files import whole_lines
from harness.records.outside import parse_json, reason
from methods.training.loop.optim import Shape, schedule, set_rates
from methods.training.loop.ranks import Ranks
from methods.training.loop.shards import divided_model, divided_optimiser, whole_state


def generator_for(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Random numbers of one step: a function of (seed, stream, step) only."""
    return np.random.default_rng([seed, stream, step])


REMOVE = "take another work folder, or delete this file to start again"


class LoopError(UserError, ValueError):
    """A file of an earlier run that this one cannot go on from."""


@dataclass(frozen=True)
class LoopOptions:
    """Length and bookkeeping of one training loop.

    ``warmup`` in steps; ``decay`` is the final share of the steps over which rates fall to 0 (``shape``:
    along a line or half a cosine); ``clip`` bounds the gradient norm; a checkpoint is written every
    ``save_every`` steps; a step is the mean over ``accumulate`` batches.
    """

    steps: int
    warmup: int = 100
    decay: float = 0.4
    clip: float = 1.0
    save_every: int = 250
    log_every: int = 10
    accumulate: int = 1
    shape: Shape = "linear"


LossAt = Callable[[int], Tensor | Iterable[Tensor]]
"""The loss of a batch, by its number: whole, or in parts that add up to it. The gradient of a part is taken
and its graph freed before the next is asked for.
"""


@dataclass(frozen=True)
class Hooks:
    """What a recipe may add to the loop: ``before`` each step, a reader of every logged ``row``, how many
    ``tokens`` this process has worked through since it was last asked, and the ``ranks`` that share a step.
    """

    before: Callable[[int], object] | None = None
    row: Callable[[dict[str, Any]], None] | None = None
    tokens: Callable[[], int] | None = None
    ranks: Ranks | None = None


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
    ranks: Ranks | None = None,
) -> None:
    """Write everything needed to go on after ``step`` finished steps (``seconds`` so far); never leaves a
    torn file. With ``ranks`` all of them call it and the first one writes, undivided what they share.
    """
    state = {
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "step": step,
        "seconds": seconds,
        "rng": torch.get_rng_state(),
    }
    if ranks is not None:
        state = whole_state(state, ranks.first) if ranks.sharded else state
        if not ranks.first:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(
    path: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], sharded: bool = False
) -> tuple[int, float]:
    """Restore a checkpoint; returns finished steps and seconds spent on them, 0 and 0 if there is none.
    LoopError for a file that is none. ``sharded``: it holds undivided what the model holds divided.
    """
    if not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=sharded or None)
        model.load_state_dict(divided_model(state["model"], model) if sharded else state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(divided_optimiser(saved, optimiser) if sharded else saved)
        torch.set_rng_state(state["rng"])
        return int(state["step"]), float(state["seconds"])
    # A torn or foreign file ends torch in errors of every kind.
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, PickleError) as fault:
        raise LoopError(f"{path} is no checkpoint of this run ({reason(fault)}): {REMOVE}") from None


class LossLog:
    """JSON lines of the run; a resumed run drops the lines after its checkpoint."""

    def __init__(self, path: Path, step: int, reader: Callable[[dict[str, Any]], None] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for number, line in whole_lines(path) if _step(line, f"{path} line {number}") < step]
        path.write_bytes(b"".join(line + b"\n" for line in kept))
        self.path, self.reader = path, reader

    def write(self, **row: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.reader is not None:
            self.reader(row)


def _step(line: bytes, where: str) -> float:
    """The step of a line of a log; LoopError for a line that is none."""
    found = parse_json(line, where, LoopError, advice=REMOVE, finite=False).get("step")
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise LoopError(f"{where} has no step: {REMOVE}")
    return found


class Counted:
    """A loss whose batches hold so many ``tokens`` each; ``take()`` is what was worked through since the last
    call.
    """

    def __init__(self, loss_at: LossAt, tokens: int) -> None:
        self.loss_at, self.tokens, self.held = loss_at, tokens, 0

    def __call__(self, batch: int) -> Tensor | Iterable[Tensor]:
        self.held += self.tokens
        return self.loss_at(batch)

    def take(self) -> int:
        taken, self.held = self.held, 0
        return taken


class Meter:
    """Tokens per second of all ranks together, pauses left out."""

    def __init__(self, tokens: Callable[[], int], ranks: Ranks) -> None:
        self.tokens, self.ranks = tokens, ranks
        self.pause()

    def read(self) -> dict[str, float]:
        """Since the last reading, as a log's figure; none where nothing was counted."""
        seconds, count = time.perf_counter() - self.since, self.ranks.totals([self.tokens()])[0]
        self.since = time.perf_counter()
        return {"tokens_per_s": round(count / seconds, 1)} if count else {}

    def pause(self) -> None:
        """What was counted and spent until now is left out of the next reading."""
        self.tokens()
        self.since = time.perf_counter()


Reporter = Callable[[int, float | None], None]


@contextmanager
def progress(title: str, steps: int, done: int) -> Iterator[Reporter]:
    """``report(finished steps, loss or None)``: a bar with time left on a terminal, else a line every 5%."""
    if sys.stdout.isatty():
        with _bar(title, steps, done) as report:
            yield report
        return
    started, every = time.perf_counter(), max(1, steps // 20)

    def line(step: int, loss: float | None) -> None:
        if step % every == 0 or step == steps:
            spent = time.perf_counter() - started
            left = spent / max(1, step - done) * (steps - step)
            told = "" if loss is None else f" loss {loss:.4f},"
            print(
                f"{title}: {step}/{steps},{told} {spent / 60:.1f} min, {left / 60:.1f} min left", flush=True
            )

    yield line


@contextmanager
def _bar(title: str, steps: int, done: int) -> Iterator[Reporter]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    loss_column = TextColumn("{task.fields[loss]}")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        loss_column,
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task(title, total=steps, completed=done, loss="")
        yield lambda step, loss: bar.update(
            task, completed=step, loss="" if loss is None else f"loss {loss:.4f}"
        )


def train_loop(
    title: str,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    loss_at: LossAt,
    options: LoopOptions,
    folder: Path,
    every: Callable[[int], dict[str, Any]] | None = None,
    every_steps: int = 0,
    hooks: Hooks = Hooks(),
) -> float:
    """Run (or continue) ``options.steps`` steps; ``every(step)`` adds validation figures to the log.

    ``loss_at`` is called with the number of the batch: step * accumulate + 0 .. accumulate - 1. Of several
    ranks each takes its share of these, and the first one writes and logs; ``every`` is called on all.

    Returns the seconds spent, those of interrupted runs up to their last checkpoint included.
    """
    ranks, path = hooks.ranks or Ranks(), folder / "checkpoint.pt"
    set_rates(optimisers, 1.0)
    done, earlier = load_checkpoint(path, model, optimisers, ranks.sharded)
    ranks.totals([0.0])  # no rank writes before all have read
    started = time.perf_counter()
    log = LossLog(folder / "log.jsonl", done, hooks.row) if ranks.first else None
    meter = Meter(hooks.tokens or (lambda: 0), ranks)
    with progress(title, options.steps, done) if ranks.first else nullcontext(_silent) as report:
        for step in range(done, options.steps):
            loss = _one_step(model, optimisers, loss_at, options, step, hooks.before, ranks)
            finished = step + 1
            report(finished, loss)
            if finished % options.log_every == 0:
                row = {"step": step, "loss": round(loss, 5), **meter.read()}
                if log is not None:
                    log.write(**row)
            if every and every_steps and (finished % every_steps == 0 or finished == options.steps):
                figures = every(finished)
                if log is not None:
                    log.write(step=step, **figures)
                    print(f"{title}: step {finished}: {json.dumps(figures)}", flush=True)
                meter.pause()
            if finished % options.save_every == 0 or finished == options.steps:
                ranks.check_equal(trained(optimisers))
                spent = earlier + time.perf_counter() - started
                save_checkpoint(path, model, optimisers, finished, spent, ranks)
    return earlier + time.perf_counter() - started


def trained(optimisers: list[torch.optim.Optimizer]) -> list[Tensor]:
    """What the optimisers change, in their order."""
    return [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]


def _silent(step: int, loss: float | None) -> None:
    pass


def _one_step(
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    loss_at: LossAt,
    options: LoopOptions,
    step: int,
    before: Callable[[int], object] | None,
    ranks: Ranks,
) -> float:
    set_rates(optimisers, schedule(step, options.steps, options.warmup, options.decay, options.shape))
    if before is not None:
        before(step)
    total = 0.0
    for batch in ranks.batches(step, options.accumulate):
        found = loss_at(batch)
        for loss in (found,) if isinstance(found, Tensor) else found:
            (loss / options.accumulate).backward()
            total += float(loss.detach()) / options.accumulate
    ranks.sum_gradients(trained(optimisers))
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], options.clip)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return ranks.totals([total])[0]
