"""Samplers of uniform-state models (Sahoo et al. 2025, section 5, and the Psi-samplers of arXiv 2602.21185).

All categorical draws are made in float64: Gumbel noise in 32 bits or fewer lowers the entropy of the samples
and flatters their generative perplexity.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.duo.usdm import Denoise, LogLinear, posterior

Tail = Literal["greedy_code", "greedy_posterior", "ancestral"]
LAST = 1e-5  # the noise level at which the last forward pass looks
SAMPLING = LogLinear()


def times(steps: int) -> Tensor:
    """Times [steps + 1], float64, from 1 down to 1e-5. With the tail, a sampler makes steps + 1 forward
    passes.
    """
    return torch.linspace(1.0, LAST, steps + 1, dtype=torch.float64)


def draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One id [...] per distribution [..., K]; rows need not be normalised."""
    flat = probs.double().clamp(min=0.0).reshape(-1, probs.shape[-1])
    return torch.multinomial(flat, 1, generator=generator).reshape(probs.shape[:-1])


def nucleus(probs: Tensor, share: float) -> Tensor:
    """Keep the fewest likeliest tokens [..., K] whose mass reaches ``share``, renormalised; 1 keeps all."""
    if share >= 1:
        return probs
    ordered, order = probs.sort(-1, descending=True)
    drop = ordered.cumsum(-1) - ordered >= share
    kept = probs.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), 0.0)
    return kept / kept.sum(-1, keepdim=True)


def transition(x: Tensor, z: Tensor, alpha_s: Tensor, alpha_t: Tensor, kappa: float = 1.0) -> Tensor:
    """Distribution [..., K] of z_s given the prediction ``x`` [..., K] at ``z`` [...].

    kappa = 1 is ancestral sampling; below it, the rest of the mass goes to a fresh draw at noise level s of
    the predicted clean token (a predictor-corrector step that leaves the marginals alone).
    """
    step = posterior(x, z, alpha_s, alpha_t)
    if kappa >= 1:
        return step
    clean = posterior(x, z, torch.ones_like(alpha_s), alpha_t)
    fresh = alpha_s.unsqueeze(-1) * clean + (1 - alpha_s).unsqueeze(-1) / x.shape[-1]
    return kappa * step + (1 - kappa) * fresh


def settle(
    x: Tensor, z: Tensor, alpha: Tensor, tail: Tail, generator: torch.Generator | None = None
) -> Tensor:
    """Final ids [...] from the prediction ``x`` [..., K] at ``z`` [...] with little noise left.

    "greedy_code" is argmax x_theta, as in the released code and behind the published figures;
    "greedy_posterior" the argmax of p(clean | z) that the paper's text describes, which keeps z unless
    x_theta all but rules it out; "ancestral" draws from that.
    """
    if tail == "greedy_code":
        return x.argmax(-1)
    clean = posterior(x, z, torch.ones_like(alpha), alpha)
    return clean.argmax(-1) if tail == "greedy_posterior" else draw(clean, generator)


@torch.no_grad()
def sample(
    denoise: Denoise,
    shape: tuple[int, int],
    vocab: int,
    steps: int,
    tail: Tail = "greedy_code",
    generator: torch.Generator | None = None,
    kappa: float = 1.0,
    share: float = 1.0,
) -> Tensor:
    """Ids [rows, length] from pure noise in steps + 1 forward passes; ``share`` filters x_theta (nucleus)."""
    device = None if generator is None else generator.device
    z = torch.randint(vocab, shape, generator=generator, device=device)
    grid = SAMPLING.alpha(times(steps)).to(z.device)
    for i in range(steps):
        alpha_t = grid[i].expand(shape[0])
        x = nucleus(denoise(z, alpha_t).double().softmax(-1), share)
        z = draw(transition(x, z, grid[i + 1].expand(shape), grid[i].expand(shape), kappa), generator)
    x = nucleus(denoise(z, grid[-1].expand(shape[0])).double().softmax(-1), share)
    return settle(x, z, grid[-1].expand(shape), tail, generator)
