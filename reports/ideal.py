"""What an ideal factorised decoder reaches on the parallel suites, for the line in their plots.

It knows the exact distribution of every word given all words of earlier forward passes and draws those of one
pass independently. The values are `suites.generators.parallel.reference_line` of the frozen test sets, kept
here because reports read records alone; a test computes them again.
"""

from __future__ import annotations

WORDS = (1, 2, 3, 4, 5, 6, 8, 10)
"""Words written per forward pass."""

_ALWAYS = (1.0,) * len(WORDS)
IDEAL: dict[str, tuple[float, ...]] = {
    "parallel-copy": _ALWAYS,
    "parallel-reverse": _ALWAYS,
    "parallel-sort": _ALWAYS,
    "parallel-replace": (1.0, 0.829, 0.739, 0.675, 0.632, 0.592, 0.527, 0.394),
    "parallel-shuffle": (1.0, 0.344, 0.152, 0.082, 0.050, 0.028, 0.008, 0.005),
    "parallel-schedule": (1.0, 0.478, 0.254, 0.163, 0.111, 0.068, 0.027, 0.016),
}
"""Share of right answers by suite, for each of WORDS."""
