"""Estimated log-probabilities of a batch of answers, and their gradient, in forwards of bounded size.

The estimate of a token is a weighted sum over views. The clipped loss needs the whole sum, its gradient does
not: with g = dLoss/dlogpi taken on the sums, the gradient of the weights is the sum of g * weight * log p
over the views, each of which is run and freed by itself. Memory therefore holds one forward of ``rows`` view
rows, whatever the estimator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.model.transformer import Transformer
from methods.training.grpo.estimators import Answer, Estimator
from methods.training.losses.masks import token_log_probs


class Scorer(nn.Module):
    """log p of given tokens at given places: [tokens], and the entropy (nats) of the prediction there."""

    def __init__(self, model: Transformer, mask_id: int) -> None:
        super().__init__()
        self.model, self.mask_id = model, mask_id

    def forward(
        self, ids: Tensor, visible: Tensor, rows: Tensor, places: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``ids``, ``visible`` [rows, length]; token k is tokens[k] at (rows[k], places[k]). The head runs at
        these places only.
        """
        hidden = self.model.hidden(ids, mask=visible[:, None, None, :])
        logits = self.model.head(hidden[rows, places - int(self.model.spec.shift)])
        log_probs = token_log_probs(logits, self.mask_id)
        with torch.no_grad():
            entropy = torch.special.entr(log_probs.exp()).sum(-1)
        return log_probs.gather(-1, tokens[:, None]).squeeze(-1), entropy


@dataclass(frozen=True)
class AnswerBatch:
    """Answers as tensors: ``prompts`` [answers, longest prompt] and ``outputs`` [answers, canvas] of ids, and
    what to score.
    """

    prompts: Tensor
    outputs: Tensor
    answers: Sequence[Answer]


@dataclass(frozen=True)
class _Row:
    """One view of one answer: ids [prompt + canvas], and of its n read tokens the slot in the flat estimate,
    id, place, weight.
    """

    ids: Tensor
    slots: Tensor
    tokens: Tensor
    places: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Chunk:
    """Inputs of one forward, with the slot and weight of every log-probability it gives."""

    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    slots: Tensor
    weights: Tensor


def _rows(batch: AnswerBatch, estimator: Estimator, inner: int, mask_id: int) -> list[_Row]:
    canvas, found = batch.outputs.shape[1], []
    for index, answer in enumerate(batch.answers):
        if not answer.scored.any():
            continue
        prompt, output = batch.prompts[index, : answer.prompt_length], batch.outputs[index]
        for view in estimator.views(answer, inner):
            at = view.weight.nonzero().squeeze(1)
            ids = torch.cat(
                [prompt.masked_fill(view.prompt_hidden, mask_id), output.masked_fill(view.hidden, mask_id)]
            )
            found.append(
                _Row(ids, index * canvas + at, output[at], answer.prompt_length + at, view.weight[at])
            )
    return found


def _chunk(rows: Sequence[_Row], device: torch.device) -> Chunk:
    length = max(len(row.ids) for row in rows)
    ids = torch.stack([nn.functional.pad(row.ids, (0, length - len(row.ids))) for row in rows])
    visible = torch.arange(length)[None] < torch.tensor([len(row.ids) for row in rows])[:, None]
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.places) for row in rows]))
    joined = [
        torch.cat([getattr(row, name) for row in rows]) for name in ("places", "tokens", "slots", "weights")
    ]
    places, tokens, slots, weights = (part.to(device) for part in joined)
    return Chunk((ids.to(device), visible.to(device), owner.to(device), places, tokens), slots, weights)


def chunks(
    batch: AnswerBatch, estimator: Estimator, inner: int, mask_id: int, rows: int, device: torch.device
) -> list[Chunk]:
    """The forwards of a batch, ``rows`` view rows each; similar lengths together."""
    found = sorted(_rows(batch, estimator, inner, mask_id), key=lambda row: len(row.ids))
    return [_chunk(found[start : start + rows], device) for start in range(0, len(found), rows)]


def idle_chunk(device: torch.device) -> Chunk:
    """A forward that counts nothing, for a worker that has fewer forwards than the others and shards with
    them.
    """
    nothing = torch.zeros(1, dtype=torch.long)
    row = _Row(torch.zeros(2, dtype=torch.long), nothing, nothing, nothing + 1, torch.zeros(1))
    return _chunk([row], device)


@torch.no_grad()
def estimate(
    score: Callable[..., tuple[Tensor, Tensor]], parts: Sequence[Chunk], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """(log-probabilities, mean entropies over the views): float32 on the CPU, ``shape`` = [answers, canvas],
    0 where not scored.
    """
    values = torch.zeros(3, shape.numel())
    for part in parts:
        log_probs, entropy = score(*part.inputs)
        for total, found in zip(values, (log_probs, entropy, torch.ones_like(entropy)), strict=True):
            total.index_add_(0, part.slots.cpu(), (found * part.weights).float().cpu())
    estimates, entropies, weights = values.view(3, *shape)
    return estimates, entropies / weights.clamp(min=torch.finfo(torch.float32).tiny)


def accumulate(score: Callable[..., tuple[Tensor, Tensor]], parts: Sequence[Chunk], gradient: Tensor) -> None:
    """Add to the parameters' gradients: sum over the estimates of ``gradient`` [answers, canvas] times their
    derivative.
    """
    flat = gradient.flatten()
    for part in parts:
        log_probs, _ = score(*part.inputs)
        (log_probs * part.weights * flat[part.slots.cpu()].to(part.weights.device)).sum().backward()
