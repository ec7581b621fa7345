"""Masks of masked-diffusion distillation: clocks, position classes, and logits that speak of the right
token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.training.losses.couplings import mask_coupling
from methods.training.losses.integral_cache import IntegralCache

Clock = Literal["linear", "gaussian"]


def keep_at(t: Tensor, clock: Clock = "linear", cache: IntegralCache | None = None) -> Tensor:
    """Probability [...] that a token is visible at time t [...] in [0, 1].

    "linear": 1 - t. "gaussian": p_K(gamma(t)), the chance that the Gaussian process still has the clean token
    in front; it re-times a masked process and does nothing else. Needs ``cache`` (ValueError).
    """
    if clock == "linear":
        return 1 - t.double()
    if cache is None:
        raise ValueError("the gaussian clock needs the integral cache of the vocabulary")
    return cache.p(cache.gamma(t))


@dataclass(frozen=True)
class NestedPair:
    """States [rows, length] at two times and the classes of their positions (boolean [rows, length]).

    ``hidden`` (class C): masked at both; ``shown`` (class B): masked at t, visible at s. Class A, visible at
    both, and all positions outside the noised region belong to neither.
    """

    z_t: Tensor
    z_s: Tensor
    hidden: Tensor
    shown: Tensor


def nested_pair(
    x: Tensor,
    region: Tensor,
    keep_t: Tensor,
    keep_s: Tensor,
    mask_id: int,
    generator: torch.Generator | None = None,
) -> NestedPair:
    """Mask ids ``x`` [rows, length] inside ``region`` (boolean) at two levels with one draw per position.

    ``keep_t`` <= ``keep_s`` [rows]. One draw for both makes the masks nested, which *is* the masked Markov
    chain.
    """
    coupling = mask_coupling(x, mask_id, generator)
    z_t = torch.where(region, coupling.at(keep_t.unsqueeze(-1)), x)
    z_s = torch.where(region, coupling.at(keep_s.unsqueeze(-1)), x)
    masked_t, masked_s = (
        region & (coupling.u >= keep_t.unsqueeze(-1)),
        region & (coupling.u >= keep_s.unsqueeze(-1)),
    )
    return NestedPair(z_t, z_s, masked_t & masked_s, masked_t & ~masked_s)


def aligned(logits: Tensor, shift: bool) -> Tensor:
    """Logits [rows, length, vocab] whose entry l predicts token l.

    Dream's raw logits at l - 1 speak of l, and its own logits at 0 of position 0, which is prompt and never
    trained on.
    """
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if shift else logits


def drawn(log_probs: Tensor, u: Tensor) -> Tensor:
    """Tokens [places] of distributions [places, vocab], each by one uniform number ``u`` [places], float64,
    in [0, 1): what is drawn depends on its own place alone, however many are drawn together.
    """
    ends = log_probs.exp().cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(ends, (u * ends[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=log_probs.shape[-1] - 1)


def token_log_probs(logits: Tensor, mask_id: int, tokens: int | None = None) -> Tensor:
    """Log-probabilities [..., vocab] with no mass on MASK, nor on rows from ``tokens`` on (padding of the
    vocabulary).

    At least float32 inside; float64 logits stay so.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    banned = torch.arange(wide.shape[-1], device=wide.device) == mask_id
    if tokens is not None:
        banned |= torch.arange(wide.shape[-1], device=wide.device) >= tokens
    return wide.masked_fill(banned, -torch.inf).log_softmax(-1)
