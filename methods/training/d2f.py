"""D2F (discrete diffusion forcing): distil a block-causal student from its own bidirectional base.

The student is base + LoRA under a block-causal mask (the prompt is block 0), the teacher the same
weights without the adapter and with full attention, both on the same noisy row; later blocks are
noisier than earlier ones. Wang et al. 2025, "Diffusion LLMs Can Do Faster-Than-AR Inference via
Discrete Diffusion Forcing".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.load import load_transformer
from harness.model.transformer import Transformer
from methods.training.batches import Stream
from methods.training.core import LoopOptions, generator_for, train_loop
from methods.training.corpus import EOS, MASK, Mix, cached_pool
from methods.training.diffusion import Corruption, Noisy, lay_out, visible_columns
from methods.training.evaluate import D2FMode, score
from methods.training.export import data_hash, save_card, save_weights
from suites.generators.frozen import DATA

SMALLEST_RATE = 0.05  # bounds the weight 1 / rate where ``low`` is set near 0


@dataclass(frozen=True)
class D2FOptions:
    """The shipped recipe for nano's D2F adapter.

    ``base`` is the folder of the diffusion model, ``output`` the adapter's folder, ``work`` the place of
    checkpoints and of the token pool. ``low`` and ``high`` bound the mask rates of a row's blocks
    (published adapters: 0.2 and 0.7, block 16, constant rate 5e-6, dropout 0.1, weight decay 0.05);
    ``rank`` and ``alpha`` are LoRA's. ``corruption`` only lends its canvas and tail settings.
    """

    base: Path
    output: Path
    work: Path
    seed: int = 0
    threads: int = 1
    pool_items: int = 300_000
    mix: Mix = field(default_factory=lambda: Mix(gsm=0.34, drills=0.06))
    block_size: int = 8
    low: float = 0.2
    high: float = 0.7
    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0
    lr: float = 2e-3
    weight_decay: float = 0.05
    tokens: int = 2048
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(1500, warmup=50))
    corruption: Corruption = field(default_factory=lambda: Corruption(full_canvas=0.3))
    validate_every: int = 0
    validation_items: int = 256


def block_causal_mask(prompts: Tensor, length: int, block_size: int) -> Tensor:
    """May-attend mask [rows, 1, length, length]: a block sees itself, earlier blocks and the prompt."""
    offset = torch.arange(length)[None] - prompts[:, None]
    block = torch.where(offset < 0, 0, offset // block_size + 1)
    return (block[:, :, None] >= block[:, None, :])[:, None]


def noise_levels(rng: np.random.Generator, blocks: int, low: float = 0.2, high: float = 0.7) -> np.ndarray:
    """Mask rates [blocks], rising from block to block: p1 ~ U(low, high), later steps at most (high - p1)/(blocks - 1)."""
    first = rng.uniform(low, high)
    rises = rng.random(blocks - 1) * (high - first) / max(1, blocks - 1)
    return first + np.concatenate([[0.0], np.cumsum(rises)])


def d2f_loss(student: Tensor, teacher: Tensor, masked: Tensor, rates: Tensor, shift: bool) -> Tensor:
    """Mean over masked places of the soft-label cross-entropy divided by the mask rate there.

    ``student`` and ``teacher`` are raw logits [rows, length, vocab]; ``masked`` and ``rates`` are
    [rows, length]. With ``shift`` the logits at p are read for place p + 1 (place 0 is prompt).
    """
    if shift:
        student, teacher, masked, rates = student[:, :-1], teacher[:, :-1], masked[:, 1:], rates[:, 1:]
    return soft_cross_entropy(student[masked], teacher[masked], rates[masked])


def soft_cross_entropy(student: Tensor, teacher: Tensor, rates: Tensor) -> Tensor:
    """mean of -sum_v q_teacher(v) log p_student(v) / rate over [count, vocab] logits; gradient of KL(teacher | student)."""
    losses = -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(-1)
    return (losses / rates).mean()


class AdapterTraining:
    """One D2F step on a base model wrapped by PEFT, teacher and student sharing its weights."""

    def __init__(
        self, model: Transformer, adapter_off: Callable[[], AbstractContextManager[None]], stream: Stream, mask_id: int, options: D2FOptions
    ) -> None:
        self.model, self.adapter_off, self.stream, self.mask_id, self.options = model, adapter_off, stream, mask_id, options

    def loss(self, step: int) -> Tensor:
        """Loss of the rows of ``step``; a function of (seed, step) and the weights."""
        noisy, prompts, rates = self.corrupt(step)
        ids, length = torch.from_numpy(noisy.ids), noisy.ids.shape[1]
        target = torch.from_numpy(np.flatnonzero(noisy.masked))
        visible = torch.from_numpy(visible_columns(noisy))[:, None, None, :]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad(), self.adapter_off():
                teacher = self._read(ids, visible, target)
            student = self._read(ids, block_causal_mask(torch.from_numpy(prompts), length, self.options.block_size) & visible, target)
        return soft_cross_entropy(student, teacher, torch.from_numpy(rates).flatten()[target].float())

    def _read(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        hidden = self.model.hidden(ids, mask=mask).flatten(0, 1)
        return self.model.head(hidden[F.pad(target - 1, (0, -len(target) % 256))])[: len(target)]

    def corrupt(self, step: int) -> tuple[Noisy, np.ndarray, np.ndarray]:
        """The noisy rows of one step, their prompt lengths and the mask rate at every place."""
        rng = generator_for(self.stream.seed, step, 4)
        batch, limits = lay_out(self.stream, step, self.options.corruption)
        rows, length = batch.ids.shape
        column = np.arange(length)[None]
        offset = column - batch.prompts[:, None]
        inside = (offset >= 0) & (column < limits[:, None])
        rates = np.zeros((rows, length))
        for row in range(rows):
            blocks = -(-int(limits[row] - batch.prompts[row]) // self.options.block_size)
            levels = noise_levels(rng, blocks, self.options.low, self.options.high)
            rates[row, inside[row]] = levels[offset[row, inside[row]] // self.options.block_size]
        masked = (rng.random((rows, length)) < rates) & inside
        ids = np.where(masked, self.mask_id, batch.ids)
        return Noisy(batch.ids, ids, masked, inside, masked.astype(float)), batch.prompts, np.maximum(rates, SMALLEST_RATE)


def wrap(model: Transformer, options: D2FOptions) -> PeftModel:
    """The model with fresh LoRA matrices on q, k, v and o, only these trainable."""
    torch.manual_seed(options.seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets, bias="none")
    return PeftModel(model, config)  # pyright: ignore[reportArgumentType]


def train_d2f(options: D2FOptions) -> dict[str, float]:
    """Train the adapter and write its PEFT folder; returns its validation figures under D2F decoding."""
    torch.set_num_threads(options.threads)
    model = load_transformer(options.base, torch.float32, torch.device("cpu")).requires_grad_(True)
    model.matmul_attention = True
    tokenizer = Tokenizer.from_file(str(options.base / "tokenizer.json"))
    pool = cached_pool(options.work, tokenizer, options.seed + 1, options.pool_items, options.mix)
    stream = Stream(pool, options.seed + 7, options.tokens, tokenizer.token_to_id(EOS))
    wrapped = wrap(model, options)
    training = AdapterTraining(model, wrapped.disable_adapter, stream, tokenizer.token_to_id(MASK), options)
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=options.lr, betas=(0.9, 0.95), weight_decay=options.weight_decay)
    modes = (D2FMode(block=options.block_size),)
    check = lambda _: score(model, tokenizer, modes, 64)  # noqa: E731
    seconds = train_loop("nano-d2f", wrapped, [optimiser], training.loss, options.loop, options.work / "d2f", check, options.validate_every)
    figures = score(model, tokenizer, modes, options.validation_items)
    save_adapter(wrapped, options, figures, seconds / 60)
    return figures


def save_adapter(wrapped: PeftModel, options: D2FOptions, figures: dict[str, float], minutes: float) -> None:
    """Write adapter_config.json, bfloat16 weights and the card."""
    folder = options.output
    wrapped.peft_config["default"].base_model_name_or_path = options.base.name
    wrapped.save_pretrained(str(folder))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_mapping": None}, indent=2, sort_keys=True) + "\n")
    weights = folder / "adapter_model.safetensors"
    save_weights(weights, load_file(str(weights)))
    facts = {
        "command": "`bench train d2f`",
        "base": options.base.name,
        "seed": options.seed,
        "steps": f"{options.loop.steps} of {options.tokens} tokens, AdamW {options.lr}",
        "LoRA": f"rank {options.rank}, alpha {options.alpha} on q, k, v, o",
        "block size": options.block_size,
        "mask rates": f"{options.low} to {options.high}",
        "wall time": f"{minutes:.0f} min, {options.threads} CPU thread(s), bfloat16 autocast",
        "hash of the frozen sets": data_hash(DATA),
    }
    save_card(folder, "nano-d2f", "D2F adapter (PEFT LoRA) for nano: block-causal attention, blocks of 8.", figures, facts)
