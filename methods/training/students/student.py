"""The core of every distiller of masked models: one adapted model, its data, its loop, its delivery.

A student is a PEFT adapter on a frozen base (or, for small models, all weights). A method adds its options
and a loss: a function of this and of the number of the batch. Device and precision are accelerate's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.nn import functional

from harness.model.catalog import location
from harness.model.checkpoint import transformer_of
from harness.model.device import pick_dtype
from harness.model.load import resolve
from harness.model.transformer import Transformer
from harness.records.files import digest
from harness.runs.wandb_log import package
from methods.training.data.batches import Stream
from methods.training.data.corruption import Corruption, lay_out
from methods.training.data.sources import training_data
from methods.training.loop.loop import generator_for
from methods.training.loop.optim import build_optimisers
from methods.training.loop.ranks import Ranks, join, rank_device
from methods.training.loop.rounds import AdapterRounds
from methods.training.loop.shards import Shards
from methods.training.losses.masks import aligned
from methods.training.options import StudentOptions, TrainingError, plain

Options = TypeVar("Options", bound=StudentOptions)
Reader = Callable[[Tensor], Tensor]
"""States [places, hidden] -> logits [places, vocab], float32."""
PLACES = (
    "output",
    "threads",
    "device",
    "save_every",
    "validate_every",
    "validation_items",
    "wandb",
    "gradient_checkpointing",
    "shard",
    "fit",
)


@dataclass(frozen=True)
class Rows:
    """Clean rows of one batch: ``ids`` [rows, length], ``region`` that may be noised, ``visible`` [rows, 1,
    1, length] attention mask.

    ``prompts``, ``ends`` [rows]: lengths of the prompt and of prompt and answer with its eos; ``places``
    [rows]: which rows of the pool these are.
    """

    ids: Tensor
    region: Tensor
    visible: Tensor
    prompts: Tensor
    ends: Tensor
    places: np.ndarray


class Student(Generic[Options]):
    """The adapted model with its data. ``rounds`` hold student, teacher snapshot and running average."""

    def __init__(self, options: Options, method: str) -> None:
        if options.wandb:
            package()  # says what is missing before answers are generated
        torch.set_num_threads(options.threads)
        self.options, self.method = options, method
        self.folder = resolve(location(options.model))
        self.device = rank_device(options.device)
        self.accelerator = join(self.device, options.precision)
        self.ranks = Ranks(self.device)
        if not options.fit:
            self.ranks.check(options.accumulate, {"tokens": options.tokens})
        dtype = torch.float32 if options.rank == 0 else pick_dtype("auto", self.device)
        self.model: Transformer = transformer_of(options.model, dtype, self.device)
        if self.model.spec.mask_id is None:
            raise TrainingError(
                f"{options.model} has no mask token: --model must be a masked diffusion model"
            )
        self.mask_id = self.model.spec.mask_id
        self.model.matmul_attention = self.device.type == "cpu"
        self.model.gradient_checkpointing = options.gradient_checkpointing
        self.net = self._adapted()
        divided = options.shard and self.ranks.count > 1
        self.shards = Shards(self.model, self.device, self.ranks.count) if divided else None
        self.ranks.sharded = divided
        self.rounds = AdapterRounds(self.net, options.schedule, options.decay, self.shards)
        self.groups: list[tuple[nn.ParameterList, float]] = [(self.rounds.student, options.lr)]
        with self.ranks.first_alone():
            self.data = training_data(options, self.folder, self.model.spec, self.ranks.first)
        self.tokens = 0
        self._open(options)

    def _open(self, options: Options) -> None:
        self.options = options
        self.stream = Stream(self.data.pool, options.seed + 9, options.tokens, self.model.spec.eos_ids[0])

    def resize(self, tokens: int, accumulate: int) -> None:
        """Other batches than the options say, before the first is drawn."""
        self._open(replace(self.options, tokens=tokens, accumulate=accumulate))

    def _adapted(self) -> nn.Module:
        torch.manual_seed(self.options.seed)
        if self.options.rank == 0:
            return self.model.requires_grad_(True)
        return PeftModel(self.model, self.lora())  # pyright: ignore[reportArgumentType]

    def lora(self) -> LoraConfig:
        options = self.options
        return LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=list(options.targets),
            bias="none",
        )

    @property
    def adapter(self) -> PeftModel:
        """The PEFT wrapper; TrainingError where all weights train."""
        if not isinstance(self.net, PeftModel):
            raise TrainingError(f"{self.method} needs an adapter beside the base: --set rank=... above 0")
        return self.net

    @contextmanager
    def base(self) -> Iterator[None]:
        """The model computes as the base it started from: no adapter, no dropout, no gradients."""
        self.net.eval()
        try:
            with torch.no_grad(), self.adapter.disable_adapter():
                yield
        finally:
            self.net.train()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Where weights are divided, ``model`` and ``net`` of the first rank are an undivided copy; all ranks
        enter.
        """
        if self.shards is None:
            yield
            return
        own, state = (self.model, self.net), self.shards.gathered(self.ranks.first)
        if self.ranks.first:
            copy = transformer_of(self.options.model, torch.float32, self.device)
            copy.load_state_dict(state)
            copy.matmul_attention = self.model.matmul_attention
            self.model = self.net = copy
        try:
            yield
        finally:
            self.model, self.net = own

    def rows(self, batch: int) -> Rows:
        """The rows of a batch: prompts untouched, the canvas behind them padded with eos."""
        if self.options.blocks:
            laid = self.stream.batch(batch)
            limits = laid.ends
        else:
            laid, limits = lay_out(
                self.stream,
                batch,
                Corruption(full_canvas=self.options.full_canvas, canvas=self.options.canvas),
            )
        column = np.arange(laid.ids.shape[1])[None]
        inside = column < limits[:, None]
        region = (column >= laid.prompts[:, None]) & inside
        parts = (laid.ids, region, inside, laid.prompts, np.minimum(laid.ends, limits))
        self.tokens += laid.ids.size
        ids, area, seen, prompts, ends = (torch.from_numpy(part).to(self.device) for part in parts)
        return Rows(ids, area, seen[:, None, None, :], prompts, ends, laid.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that a batch may have, prompt and canvas."""
        pool = self.data.pool
        rows = int(np.diff(pool.starts).max())
        if not self.options.blocks:
            rows = int(pool.prompts.max()) + self.options.canvas
        return -(-rows // 8) * 8

    def take_tokens(self) -> int:
        """Positions of the batches laid out since the last call, padding included."""
        taken, self.tokens = self.tokens, 0
        return taken

    def random(self, batch: int, stream: int = 0) -> torch.Generator:
        """Random numbers of one batch: a function of (seed, stream, batch); the dropout's too."""
        key = int(generator_for(self.options.seed + 17, batch, stream).integers(2**62))
        torch.manual_seed(key)
        return torch.Generator(self.device).manual_seed(key)

    def states(self, ids: Tensor, visible: Tensor, at: Tensor) -> Tensor:
        """Hidden states [places, hidden] that speak of the tokens ``at`` [rows, length], for `by_places`."""
        with self.accelerator.autocast():
            hidden = self.model.hidden(ids, mask=visible)
        return aligned(hidden, self.model.spec.shift)[at]

    def read(self, states: Tensor) -> Tensor:
        """Logits [places, vocab] of such states, float32."""
        with self.accelerator.autocast():
            return self.model.head(states).float()

    def reader(self) -> Reader:
        """Reads states as the model does now, without gradients; also when it computes otherwise again."""
        weight = self.model.lm_head.weight
        if weight.requires_grad:
            weight = weight.detach().clone()

        @torch.no_grad()
        def read(states: Tensor) -> Tensor:
            with self.accelerator.autocast():
                return functional.linear(states, weight).float()

        return read

    def check_head(self) -> None:
        """TrainingError for an adapter on the head, which teacher and student share."""
        if self.options.rank and "lm_head" in self.options.targets:
            raise TrainingError(
                f"{self.method} reads teacher and student by one head: take lm_head out of --set targets"
            )

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW per group of tensors; Muon on the student's matrices where ``muon_lr`` says so."""
        options, groups = self.options, self.groups
        first: list[torch.optim.Optimizer] = []
        if options.muon_lr:
            first = build_optimisers(
                self.model, options.muon_lr, options.lr, options.weight_decay, options.betas
            )
            groups = groups[1:]
        return first + [
            torch.optim.AdamW(group, lr=lr, betas=options.betas, weight_decay=options.weight_decay)
            for group, lr in groups
        ]

    def key(self) -> str:
        """Eight digits over the settings that decide the weights: another setting, another work folder."""
        return digest({name: value for name, value in plain(self.options).items() if name not in PLACES})[:8]


def antithetic(rows: int, generator: torch.Generator) -> Tensor:
    """Uniform draws [rows], float64, one in each of ``rows`` equal parts of [0, 1)."""
    draws = torch.rand(rows, dtype=torch.float64, generator=generator, device=generator.device)
    return (draws + torch.arange(rows, device=generator.device)) / rows
