"""Counts and clocks of one decode call. Only the backbone and the canvas write here."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RowMeter:
    """What one row cost.

    ``forwards`` holds one [query_len, cached_len, stored_len] (positions) per forward pass the row
    took part in; ``kv_read`` sums the key positions attended to.
    """

    forwards: list[tuple[int, int, int]] = field(default_factory=list)
    kv_read: int = 0
    first_block_s: float | None = None
    finished_s: float | None = None

    @property
    def nfe(self) -> int:
        return len(self.forwards)

    @property
    def positions(self) -> int:
        return sum(query for query, _, _ in self.forwards)


class Meter:
    """Per-row counts plus the time spent inside model forwards (seconds)."""

    def __init__(self, rows: int) -> None:
        self.rows = [RowMeter() for _ in range(rows)]
        self.calls = 0
        self.forward_s = 0.0
        self.started: float | None = None

    def record(self, row: int, query: int, cached: int, stored: int, keys: int) -> None:
        """Count one row's share of one forward pass."""
        self.rows[row].forwards.append((query, cached, stored))
        self.rows[row].kv_read += keys
