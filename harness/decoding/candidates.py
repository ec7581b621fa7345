"""What a decoder asks for instead of logits: the best token at each position, how probable it is, and a score
to rank by.

The harness computes it for all rows of a pass at once, on the device, and brings it to the host in one copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Score = Literal["probability", "margin", "neg_entropy"]


@dataclass(frozen=True)
class Want:
    """Greedy candidates: ``score`` ranks them; ``double`` takes the softmax in float64, as LLaDA does."""

    score: Score = "probability"
    double: bool = False


@dataclass
class Candidates:
    """Proposals at k positions: ids [k], the probability of each [k], the ranking score [k]."""

    ids: Tensor
    probability: Tensor
    score: Tensor


def ranking(probs: Tensor, score: Score) -> Tensor | None:
    """Score [k] of ``probs`` [k, vocab], larger is surer: margin, or negative entropy in nats; None where it
    is the probability itself.
    """
    if score == "neg_entropy":
        return (probs * torch.log(probs + 1e-10)).sum(-1)
    if score == "margin":
        top = probs.topk(2, dim=-1).values
        return top[:, 0] - top[:, 1]
    return None


def greedy(logits: Tensor, mask_id: int | None, want: Want) -> Candidates:
    """The likeliest tokens of aligned logits [k, vocab]; the mask id is never one."""
    probs = logits.softmax(-1, dtype=torch.float64 if want.double else None)
    score = ranking(probs, want.score)
    if mask_id is not None:
        probs[:, mask_id] = 0.0
    chosen, ids = probs.max(-1)
    if mask_id is not None and not chosen.all():
        chosen, ids = without_mask(probs, logits, mask_id).max(-1)
    return Candidates(ids, chosen, chosen if score is None else score)


def without_mask(probs: Tensor, logits: Tensor, mask_id: int) -> Tensor:
    """``probs`` [k, vocab] with nothing on the mask id; it may be changed in place.

    Where the mask id took all of the probability: the other tokens' shares among themselves, scaled to next
    to nothing.
    """
    probs[:, mask_id] = 0.0
    if not len(probs) or probs.sum(-1).all():
        return probs
    rest = logits.clone()
    rest[:, mask_id] = -torch.inf
    tiny = torch.finfo(probs.dtype).tiny ** 0.5
    return torch.where(probs.sum(-1, keepdim=True) > 0, probs, rest.softmax(-1, dtype=probs.dtype) * tiny)


def answers(
    logits: Mapping[int, Tensor], wants: Mapping[int, Want | None], mask_id: int | None
) -> dict[int, Tensor | Candidates]:
    """What each row asked for: its logits [k, vocab], or candidates on the host, computed together for rows
    that want the same.
    """
    found: dict[int, Tensor | Candidates] = {row: rows for row, rows in logits.items() if wants[row] is None}
    for want in dict.fromkeys(wants.values()):
        rows = [row for row in logits if wants[row] == want]
        if want is None or not rows:
            continue
        if len(rows) == 1:
            found[rows[0]] = Candidates(*_host(greedy(logits[rows[0]], mask_id, want)))
            continue
        sizes = [len(logits[row]) for row in rows]
        both = greedy(torch.cat([logits[row] for row in rows]), mask_id, want)
        parts = zip(*(part.split(sizes) for part in _host(both)), strict=True)
        found |= {row: Candidates(*part) for row, part in zip(rows, parts, strict=True)}
    return found


def _host(candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    ids, probability, score = candidates.ids, candidates.probability, candidates.score
    if ids.device.type == "cpu":
        return ids, probability, score
    # Ids and both figures are exact in float64: one transfer instead of three.
    together = torch.stack([ids.double(), probability.double(), score.double()]).cpu()
    return together[0].long(), together[1].to(probability.dtype), together[2].to(score.dtype)
