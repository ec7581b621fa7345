"""Certainty-forcing distillation (dParallel, Chen et al. 2025, arXiv 2509.26488) and d3LLM's trajectory order
(arXiv 2601.07568).

Both train on the teacher's own answers with cross-entropy, plus the entropy of those masked positions that
are already right. They differ in which positions are masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.5


@dataclass(frozen=True)
class Certainty:
    """Means over positions, nats: cross-entropy over all ``masked`` ones, tempered entropy over the correct
    ones among them.
    """

    cross_entropy: Tensor
    entropy: Tensor
    correct: Tensor

    def total(self, beta: float = 1.0) -> Tensor:
        """The loss: beta 1 for Dream, 2 for LLaDA in the paper."""
        return self.cross_entropy + beta * self.entropy


def place_certainty(
    logits: Tensor, labels: Tensor, temperature: float = TEMPERATURE, sharp: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy, tempered entropy, whether the likeliest is right) [places] of ``logits`` [places,
    vocab]; zeros for the entropy unless ``sharp``.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    right, entropy = logits.argmax(-1) == labels, wide.new_zeros(len(wide))
    if sharp:
        log_p = (wide / temperature).log_softmax(-1)
        entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    return F.cross_entropy(wide, labels, reduction="none"), entropy, right


def over_places(cross_entropy: Tensor, entropy: Tensor, right: Tensor, masked: Tensor) -> Certainty:
    """The means from what `place_certainty` gives, at least one place; the entropy of wrong ones is left
    out.
    """
    correct = torch.zeros_like(masked).masked_scatter(masked, right)
    sure = entropy[right].mean() if right.any() else cross_entropy.mean() * 0.0
    return Certainty(cross_entropy.mean(), sure, correct)


def certainty(logits: Tensor, labels: Tensor, masked: Tensor, temperature: float = TEMPERATURE) -> Certainty:
    """CE(y) over ``masked`` [rows, length] and mean H(softmax(z / T)) over the correct ones; ``logits``
    [rows, length, vocab].

    Logits are aligned (entry l speaks of token l). The entropy term is 0 if nothing is correct, and only
    correct positions get its gradient. A MASK column of -inf is allowed.
    """
    if not masked.any():
        zero = logits.masked_fill(logits == -torch.inf, 0.0).sum() * 0.0
        return Certainty(zero, zero, torch.zeros_like(masked))
    return over_places(*place_certainty(logits[masked], labels[masked], temperature), masked)


def random_masks(
    region: Tensor, rate: float | Tensor = 0.5, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(masked, complement) [rows, length] inside ``region``: each place with chance (1 - 1e-3) * rate + 1e-3;
    ``rate`` one or [rows, 1].

    Every row is drawn on its own. The released loop writes the whole batch once per row and is right for
    single rows only.
    """
    chance = (1 - 1e-3) * rate + 1e-3
    dice = torch.rand(region.shape, generator=generator, device=region.device)
    masked = region & (dice < chance)
    return masked, region & ~masked


@dataclass(frozen=True)
class Window:
    """Masks [rows, length] of a trajectory window: not yet decoded inside it, its complement, and the fully
    masked rest.
    """

    masked: Tensor
    complement: Tensor
    after: Tensor


def trajectory_masks(order: Tensor, start: Tensor, width: int, ratio: Tensor) -> Window:
    """Masks in the order in which the teacher decoded its answer.

    ``order`` [rows, length]: 0-based decoding step of each answer token, -1 outside the answer; ``start``
    [rows]: first answer index of the window; ``ratio`` [rows] in [0, 1]: about this share of it is masked. In
    the window exactly the tokens not yet decoded after start + int((1 - ratio) * width) steps are masked,
    before it none, behind it all. The blog's index start + ceil(ratio
    * width) is turned the other way round. Row i's order belongs to row i's answer: the release filters one
      list and not
    the other.
    """
    answer = order >= 0
    index = answer.long().cumsum(-1) - 1
    first = start.unsqueeze(-1)
    inside = answer & (index >= first) & (index < first + width)
    done = (start + ((1 - ratio) * width).long()).unsqueeze(-1)
    masked = inside & (order >= done)
    return Window(masked, inside & ~masked, answer & (index >= first + width))


def two_sided(
    logits: Tensor, complement: Tensor, labels: Tensor, masks: tuple[Tensor, Tensor], beta: float = 1.0
) -> Tensor:
    """(CE + CE' + beta (H + H')) / 4 over a mask and its complement; each has its own ``logits`` [rows,
    length, vocab].
    """
    first, second = certainty(logits, labels, masks[0]), certainty(complement, labels, masks[1])
    return (first.total(beta) + second.total(beta)) / 4


def window_width(progress: float, widths: tuple[int, int, int] = (16, 24, 32)) -> int:
    """Window width over training (progress in [0, 1], three epochs): from the first to the second in one, to
    the third in the next.
    """
    marks = (*widths, widths[-1])
    epoch = min(int(progress * 3), 2)
    share = progress * 3 - epoch
    return round(marks[epoch] + share * (marks[epoch + 1] - marks[epoch]))


def window_ratio(progress: float, rows: int, generator: torch.Generator | None = None) -> Tensor:
    """Mask ratios [rows] ~ U(0.8 * progress, 0.8): the lower bound grows with training."""
    low = 0.8 * progress
    device = None if generator is None else generator.device
    return low + (0.8 - low) * torch.rand(rows, generator=generator, device=device)
