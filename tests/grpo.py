"""Shared pieces of the GRPO tests: a tiny checkpoint in Dream's layout, and a toy language with exact
conditionals.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.transformer import Transformer
from methods.training.export import nano_spec, save_model
from methods.training.grpo.estimators import Answer, Estimator
from methods.training.grpo.scoring import AnswerBatch, chunks, estimate

NANO = Path(__file__).parent.parent / "methods" / "models" / "nano"
MASK = 3


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Two layers of 32, nano's tokenizer, random weights: config.json and names as Dream's."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    spec = replace(
        nano_spec(tokenizer.get_vocab_size()),
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
    )
    save_model(folder, Transformer(replace(spec, head_dim=16)), tokenizer, diffusion=True)
    return folder


@cache
def joint() -> Tensor:
    """P(x1, x2, x3) [3, 3, 3]: three tokens that depend on each other."""
    return torch.randn(27, generator=torch.Generator().manual_seed(3)).mul(1.5).softmax(0).view(3, 3, 3)


@cache
def conditionals() -> Tensor:
    """log P(x_k = token | the tokens seen) [4, 4, 4, 3, 3] by what is seen (3: masked), k, token; of a seen k
    its own probability.
    """
    table = torch.zeros(4, 4, 4, 3, 3)
    for seen in itertools.product(range(4), repeat=3):
        for k in range(3):
            others = tuple(
                slice(None) if place == k or token == MASK else slice(token, token + 1)
                for place, token in enumerate(seen)
            )
            part = joint()[others].sum(dim=[place for place in range(3) if place != k])
            table[(*seen, k)] = (part / part.sum()).log()
    return table


def toy_score(
    ids: Tensor, visible: Tensor, rows: Tensor, places: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """The Scorer of the toy language: one prompt token, then its three."""
    seen = ids[rows, 1:4]
    found = conditionals()[seen[:, 0], seen[:, 1], seen[:, 2], places - 1]
    return found.gather(1, tokens[:, None]).squeeze(1), -(found.exp() * found).sum(-1)


def toy_estimates(estimator: Estimator, tokens: list[int], steps: list[int], count: int) -> Tensor:
    """[count, 3] estimates of one text of the toy language, by ``count`` different seeds."""
    answers = [Answer(1, torch.ones(3, dtype=torch.bool), torch.tensor(steps), seed) for seed in range(count)]
    batch = AnswerBatch(torch.zeros(count, 1, dtype=torch.long), torch.tensor([tokens] * count), answers)
    parts = chunks(batch, estimator, 0, MASK, 4096, torch.device("cpu"))
    return estimate(toy_score, parts, batch.outputs.shape)[0]
