"""What the trainers of masked students share: options, presets, data, one adapted model, delivery.

A student is a PEFT LoRA adapter on a frozen base. Its data are the base's own answers (``data``, JSON lines with ``prompt_ids``
and ``output_ids``) where there are any, else the generated corpus.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer
from torch import Tensor

from harness.errors import UserError
from harness.model.load import load_transformer
from harness.model.transformer import Transformer
from methods.training.batches import Stream
from methods.training.core import LoopOptions, generator_for, train_loop
from methods.training.corpus import Mix, Pool, build_pool
from methods.training.diffusion import Corruption, lay_out
from methods.training.losses.masks import aligned, token_log_probs
from methods.training.rounds import AdapterRounds, RoundSchedule


class TrainingError(UserError, ValueError):
    """Options or data that no student can be trained with."""


@dataclass(frozen=True)
class StudentOptions:
    """Settings every student has.

    ``tokens`` per optimiser step; ``canvas`` new tokens of the longest row; ``decay`` of the running average that is delivered
    (1 - decay is its weight of the newest step; 0 delivers the raw student); ``warmup`` in steps, constant rate afterwards.
    """

    base: Path
    output: Path
    work: Path
    data: Path | None = None
    seed: int = 0
    threads: int = 1
    pool_items: int = 40_000
    tokens: int = 2048
    canvas: int = 48
    rank: int = 32
    alpha: int = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lr: float = 2e-4
    weight_decay: float = 0.0
    warmup: int = 50
    clip: float = 1.0
    save_every: int = 100
    decay: float = 0.999
    schedule: RoundSchedule = field(default_factory=RoundSchedule)

    @property
    def loop(self) -> LoopOptions:
        return LoopOptions(self.schedule.steps, self.warmup, 0.0, self.clip, self.save_every)


Options = TypeVar("Options")


def preset(kind: type[Options], method: str, name: str, **given: Any) -> Options:
    """Options of ``method`` from the preset ``name`` (a shipped one, or a YAML file), overridden by what is given and not None.

    Keys ``first``, ``every`` and ``rounds`` are the schedule's. Raises TrainingError for an unknown preset or key.
    """
    shipped = files("methods.training") / "presets" / f"{name}.yaml"
    source = Path(name) if name.endswith(".yaml") else shipped
    try:
        table = yaml.safe_load(source.read_text())
    except FileNotFoundError:
        raise TrainingError(f"preset {name!r} is neither nano, dream7b, smoke nor a YAML file: change --preset") from None
    if method not in table:
        raise TrainingError(f"preset {name!r} has no section {method!r}; it has {', '.join(table)}")
    values: dict[str, Any] = {**table[method], **{key: value for key, value in given.items() if value is not None}}
    schedule = RoundSchedule(**{key: values.pop(key) for key in ("first", "every", "rounds") if key in values})
    known = {entry.name for entry in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - known):
        raise TrainingError(f"preset {name!r}, {method}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**lists, schedule=schedule)  # pyright: ignore[reportCallIssue]


def read_pool(path: Path) -> Pool:
    """Answers as a pool; TrainingError names the line that is none."""
    rows, prompts = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append([*row["prompt_ids"], *row["output_ids"]])
            prompts.append(len(row["prompt_ids"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} line {number} is no answer with prompt_ids and output_ids ({error!r})") from None
    if not rows:
        raise TrainingError(f"{path} holds no answers: generate some, or leave out --data to train on the corpus")
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Pool(np.concatenate([np.array(row) for row in rows]), starts, np.array(prompts))


@dataclass(frozen=True)
class Rows:
    """One step's clean rows: ``ids`` [rows, length], ``region`` that may be noised, ``visible`` [rows, 1, 1, length] attention mask."""

    ids: Tensor
    region: Tensor
    visible: Tensor


class Student:
    """The adapted model with its data; losses of the trainers are functions of this and the step."""

    def __init__(self, options: StudentOptions, method: str) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.method = options, method
        self.model: Transformer = load_transformer(options.base, torch.float32, torch.device("cpu"))
        if self.model.spec.mask_id is None:
            raise TrainingError(f"{options.base} has no mask token: --base must be a masked diffusion model")
        self.mask_id = self.model.spec.mask_id
        self.model.matmul_attention = True
        torch.manual_seed(options.seed)
        config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=list(options.targets), bias="none")
        self.peft = PeftModel(self.model, config)  # pyright: ignore[reportArgumentType]
        self.stream = self._stream()

    def _stream(self) -> Stream:
        options = self.options
        if options.data is not None:
            pool = read_pool(options.data)
        else:
            tokenizer = Tokenizer.from_file(str(options.base / "tokenizer.json"))
            pool = build_pool(tokenizer, options.seed + 1, options.pool_items, Mix())
        return Stream(pool, options.seed + 9, options.tokens, self.model.spec.eos_ids[0])

    def rows(self, step: int) -> Rows:
        """The rows of a step: prompts untouched, the canvas behind them padded with eos."""
        batch, limits = lay_out(self.stream, step, Corruption(full_canvas=0.3, canvas=self.options.canvas))
        column = np.arange(batch.ids.shape[1])[None]
        inside = column < limits[:, None]
        region = (column >= batch.prompts[:, None]) & inside
        return Rows(torch.from_numpy(batch.ids), torch.from_numpy(region), torch.from_numpy(inside)[:, None, None, :])

    def random(self, step: int, stream: int = 0) -> torch.Generator:
        """Random numbers of one step: a function of (seed, stream, step)."""
        return torch.Generator().manual_seed(int(generator_for(self.options.seed + 17, step, stream).integers(2**62)))

    def logits(self, ids: Tensor, visible: Tensor) -> Tensor:
        """Aligned logits [rows, length, vocab], float32."""
        with torch.autocast("cpu", torch.bfloat16):
            raw = self.model.head(self.model.hidden(ids, mask=visible))
        return aligned(raw, self.model.spec.shift).float()

    def log_probs(self, ids: Tensor, visible: Tensor) -> Tensor:
        """Aligned log-probabilities without MASK."""
        return token_log_probs(self.logits(ids, visible), self.mask_id)

    def rounds(self) -> AdapterRounds:
        return AdapterRounds(self.peft, self.options.schedule, self.options.decay)

    def train(self, rounds: AdapterRounds, loss_at: Any) -> Path:
        """Run the loop, then write the averaged adapter and its card; returns the adapter's folder."""
        options = self.options
        optimiser = torch.optim.AdamW(rounds.student, lr=options.lr, betas=(0.9, 0.999), weight_decay=options.weight_decay)
        seconds = train_loop(self.method, rounds, [optimiser], loss_at, options.loop, options.work / self.method)
        rounds.finish()
        with rounds.average():
            self.save(seconds)
        return options.output

    def save(self, seconds: float) -> None:
        """Write the PEFT folder and card.json: settings, hash of the data, wall time (s)."""
        options = self.options
        self.peft.peft_config["default"].base_model_name_or_path = options.base.name
        self.peft.save_pretrained(str(options.output), selected_adapters=["default"])
        (options.output / "adapter_model.safetensors").chmod(0o644)
        settings = {entry.name: getattr(options, entry.name) for entry in fields(options)}
        card = {"method": self.method, "settings": plain(settings), "data": self.data_hash(), "seconds": round(seconds, 1)}
        (options.output / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    def data_hash(self) -> str:
        """sha256 (16 digits) of the pool's ids and borders."""
        pool = self.stream.pool
        digest = hashlib.sha256(np.ascontiguousarray(pool.ids, np.int64).tobytes())
        digest.update(np.ascontiguousarray(pool.starts, np.int64).tobytes())
        return digest.hexdigest()[:16]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values."""
    schedule = settings.get("schedule")
    rest = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items() if key != "schedule"}
    return {**rest, **({} if schedule is None else vars(schedule))}


def antithetic(rows: int, generator: torch.Generator) -> Tensor:
    """Uniform draws [rows], float64, one in each of ``rows`` equal parts of [0, 1)."""
    return (torch.rand(rows, dtype=torch.float64, generator=generator) + torch.arange(rows)) / rows


def with_steps(options: Options, steps: int | None) -> Options:
    """Shorten (or lengthen) every round so that all rounds take ``steps`` steps together."""
    if steps is None:
        return options
    schedule: RoundSchedule = options.schedule  # pyright: ignore[reportAttributeAccessIssue]
    return replace(options, schedule=replace(schedule, every=max(1, steps // schedule.rounds)))  # pyright: ignore[reportArgumentType]
