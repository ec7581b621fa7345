"""The map from the Gaussian clock gamma to the probability that argmax(w) is still the clean token.

With w = a e_x + s eps, a^2 + s^2 = 1, gamma = log(s^2 / a^2) and mu = a / s = exp(-gamma / 2),

    p_K(mu) = P(argmax w = x) = integral phi(y - mu) Phi(y)^(K - 1) dy,   alpha = (K p - 1) / (K - 1)

(Sahoo et al. 2025, section 3.1; the operator T). The integrand is analytic and decays like a Gaussian, so the
plain trapezoid rule is exact to rounding at a step of 0.1. The released tables were made with adaptive
quadrature; one of them has wrong points and another the exponent K instead of K - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import log_ndtr
from torch import Tensor

from harness.errors import UserError

VERSION = 1
REACH = 12.0  # phi(12) < 1e-31
STEP = 0.08  # 0.2 already loses seven digits at large vocabularies
CERTAIN = 40.0  # above this mu the probability is 1 in float64, whatever the vocabulary
CHUNK = 4096

Lookup = Literal["hermite", "nearest"]


class CacheError(UserError, ValueError):
    """A stored table that does not belong to the wanted vocabulary or window."""


def keep_of_mu(mu: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, dp/dmu), float64, at each mu [n] (any sign) by quadrature; absolute error below 1e-12.

    Raises CacheError for a vocabulary of fewer than two tokens.
    """
    if vocab < 2:
        raise CacheError(f"vocabulary of {vocab}: a uniform-state model needs at least 2 tokens")
    mu = np.atleast_1d(np.asarray(mu, np.float64))
    order = np.argsort(mu)
    value, slope = np.empty_like(mu), np.empty_like(mu)
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        value[part], slope[part] = _quadrature(mu[part], vocab)
    return value, slope


def keep_probability(gamma: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """(p, dp/dgamma), float64, at each gamma [n]; as ``keep_of_mu``."""
    mu = np.exp(-np.atleast_1d(np.asarray(gamma, np.float64)) / 2)
    value, slope = keep_of_mu(mu, vocab)
    return value, -0.5 * mu * slope


def _quadrature(mu: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    near = np.minimum(mu, CERTAIN)
    nodes = np.arange(near.min() - REACH, near.max() + REACH + STEP, STEP)
    others = np.exp((vocab - 1) * log_ndtr(nodes)) * STEP
    distance = nodes[None, :] - near[:, None]
    density = np.exp(-0.5 * distance**2) / np.sqrt(2 * np.pi)
    slope = (density * distance) @ others
    return np.clip(density @ others, 0.0, 1.0), np.where(mu > CERTAIN, 0.0, slope)


def alpha_of_keep(keep: Tensor, vocab: int) -> Tensor:
    """alpha of the uniform-state marginal from the keep probability: (K p - 1) / (K - 1)."""
    return (vocab * keep - 1) / (vocab - 1)


def gamma_at_alpha(alpha: float, vocab: int) -> float:
    """The gamma at which the uniform-state alpha is ``alpha`` (0 < alpha < 1)."""

    def excess(gamma: float) -> float:
        return (vocab * float(keep_probability(np.array([gamma]), vocab)[0][0]) - 1) / (vocab - 1) - alpha

    return float(brentq(excess, -7.0, 30.0, xtol=1e-13, rtol=1e-14))  # pyright: ignore[reportArgumentType]


def window(vocab: int, high: float = 0.999, low: float = 0.001) -> tuple[float, float]:
    """(gamma_min, gamma_max) over which alpha falls from ``high`` to ``low``.

    The published windows ([-3.55, -1.85] for training, [-4, -1] for distillation) hold for K = 50257 only.
    """
    return gamma_at_alpha(high, vocab), gamma_at_alpha(low, vocab)


@dataclass(frozen=True)
class IntegralCache:
    """p_K on a uniform grid of gammas: ``keep`` and ``slope`` = dp/dgamma, [points] float64 each."""

    vocab: int
    gamma_min: float
    gamma_max: float
    keep: Tensor
    slope: Tensor

    @classmethod
    def build(cls, vocab: int, gamma_min: float, gamma_max: float, points: int = 100_000) -> IntegralCache:
        """Tabulate; under a second for 100 000 points. Raises CacheError for an empty window."""
        if not gamma_min < gamma_max or points < 2:
            raise CacheError(
                f"window [{gamma_min}, {gamma_max}] with {points} points: give gamma_min < gamma_max and at "
                "least 2 points"
            )
        keep, slope = keep_probability(np.linspace(gamma_min, gamma_max, points), vocab)
        return cls(vocab, gamma_min, gamma_max, torch.from_numpy(keep), torch.from_numpy(slope))

    @property
    def points(self) -> int:
        return len(self.keep)

    def p(self, gamma: Tensor, mode: Lookup = "hermite") -> Tensor:
        """Keep probability, float64, shape of ``gamma``; outside the window gamma is clamped. Differentiable.

        "hermite" interpolates value and slope (error below 1e-12 at 100 000 points); "nearest" is the
        released lookup.
        """
        gamma = gamma.double()
        place = (gamma.clamp(self.gamma_min, self.gamma_max) - self.gamma_min) / self._width
        if mode == "nearest":
            index = place.detach().round().long()
            return self._at(self.keep, index) + self._at(self.slope, index) * (gamma - gamma.detach())
        left = place.detach().floor().long().clamp(max=self.points - 2)
        return self._hermite(left, place - left)

    def _hermite(self, left: Tensor, u: Tensor) -> Tensor:
        low, high = self._at(self.keep, left), self._at(self.keep, left + 1)
        rise_low, rise_high = (
            self._at(self.slope, left) * self._width,
            self._at(self.slope, left + 1) * self._width,
        )
        back = 1 - u
        return (
            (1 + 2 * u) * back**2 * low
            + u * back**2 * rise_low
            + u**2 * (3 - 2 * u) * high
            - u**2 * back * rise_high
        )

    def alpha(self, gamma: Tensor, mode: Lookup = "hermite") -> Tensor:
        """alpha of the uniform-state marginal. A masked process keeps a token with ``p`` itself, not with
        this.
        """
        return alpha_of_keep(self.p(gamma, mode), self.vocab)

    def dalpha(self, gamma: Tensor) -> Tensor:
        """d alpha / d gamma from the tabulated slope (linear between grid points); no finite difference."""
        place = (gamma.double().clamp(self.gamma_min, self.gamma_max) - self.gamma_min) / self._width
        left = place.floor().long().clamp(max=self.points - 2)
        slope = torch.lerp(self._at(self.slope, left), self._at(self.slope, left + 1), place - left)
        return self.vocab / (self.vocab - 1) * slope

    def gamma(self, t: Tensor) -> Tensor:
        """Gamma at time t in [0, 1], linear over the window."""
        return self.gamma_min + t.double() * (self.gamma_max - self.gamma_min)

    @property
    def _width(self) -> float:
        return (self.gamma_max - self.gamma_min) / (self.points - 1)

    def _at(self, table: Tensor, index: Tensor) -> Tensor:
        return table.to(index.device)[index]

    def save(self, folder: Path) -> Path:
        """Write the table under a name that states vocabulary, window, points and version; returns the
        file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file_name(self.vocab, self.gamma_min, self.gamma_max, self.points)
        temporary = path.with_suffix(".tmp")
        torch.save({"key": self._key(), "keep": self.keep, "slope": self.slope}, temporary)
        temporary.replace(path)
        return path

    def _key(self) -> list[float]:
        return [self.vocab, self.gamma_min, self.gamma_max, self.points, VERSION]

    @classmethod
    def load(cls, path: Path, vocab: int, gamma_min: float, gamma_max: float, points: int) -> IntegralCache:
        """Read a saved table; CacheError if it was made for anything else."""
        state = torch.load(path, weights_only=True)
        wanted = [vocab, gamma_min, gamma_max, points, VERSION]
        if list(state["key"]) != wanted:
            raise CacheError(
                f"{path} holds {state['key']}, wanted {wanted}: delete it or name another folder"
            )
        return cls(vocab, gamma_min, gamma_max, state["keep"], state["slope"])


def file_name(vocab: int, gamma_min: float, gamma_max: float, points: int) -> str:
    """Name of a stored table."""
    return f"integral-K{vocab}-{gamma_min:.6g}-{gamma_max:.6g}-n{points}-v{VERSION}.pt"


def cached(
    folder: Path, vocab: int, gamma_min: float, gamma_max: float, points: int = 100_000
) -> IntegralCache:
    """The table from ``folder``, made and stored there if it is not yet."""
    path = folder / file_name(vocab, gamma_min, gamma_max, points)
    if path.exists():
        return IntegralCache.load(path, vocab, gamma_min, gamma_max, points)
    made = IntegralCache.build(vocab, gamma_min, gamma_max, points)
    made.save(folder)
    return made


def series_coefficients(vocab: int, terms: int = 150) -> Iterator[float]:
    """m_n = (1/n!) integral z^n phi(z) Phi(z)^(K - 1) dz of alpha = K/(K-1) [exp(-mu^2/2) sum_n mu^n m_n -
    1/K].

    Source: the second DUO paper (arXiv 2602.21185). A second route to the same numbers for mu below about 8.
    """
    nodes = np.arange(-REACH - 8, REACH + 8 + STEP, STEP)
    weight = np.exp(-0.5 * nodes**2 + (vocab - 1) * log_ndtr(nodes)) / np.sqrt(2 * np.pi) * STEP
    for n in range(terms):
        yield float(weight.sum())
        weight = weight * nodes / (n + 1)
