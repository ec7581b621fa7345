"""Certainty density (d2Cache, arXiv 2509.23094, certainty prior): how much is known around a position,
weighted by a Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class CertaintyDensity:
    """Densities of the ``count`` generated positions for a Gaussian of width ``sigma`` positions.

    Before the first position everything counts as known, behind the last one everything if and only if the
    last one is. The numerator is cut ``count`` positions to either side, the denominator 3 * ``count``, as in
    the authors' code (which uses an FFT in float32: noise of about 1e-7; here float64 sums).
    """

    def __init__(self, count: int, sigma: float) -> None:
        reach = torch.arange(-3 * count, 3 * count, dtype=torch.float64)
        total = (-(reach**2) / (2 * sigma**2)).exp().sum()
        here = torch.arange(count, dtype=torch.float64)
        other = torch.arange(-count, 2 * count, dtype=torch.float64)
        weights = (-((here.unsqueeze(1) - other) ** 2) / (2 * sigma**2)).exp() / total
        self.before = weights[:, :count].sum(1)
        self.inside = weights[:, count : 2 * count]
        self.behind = weights[:, 2 * count :].sum(1)

    def at(self, known: Sequence[bool]) -> Tensor:
        """Density [count] given which positions are known."""
        flags = torch.tensor(known, dtype=torch.float64)
        return self.before + self.inside @ flags + self.behind * flags[-1]
