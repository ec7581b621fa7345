"""Counts and clocks of one decode call. Only the backbone and the canvas write here."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

# model: the layers and the head. forward: all of a forward pass, masks, cache and batching included. write:
# tokens put on the canvas. decode: the whole call of the decoder.
Part = Literal["model", "forward", "write", "decode"]


@dataclass
class RowMeter:
    """What one row cost.

    ``forwards`` holds one [query_len, cached_len, stored_len] (positions) per forward pass the row took part
    in, and ``queries`` which positions were fed, as spans (one list of spans per layer where the layers
    differ); ``fed`` holds the rows that entered the first layer; ``kv_read`` sums the key positions attended
    to; ``products`` counts multiply-adds of the layers' linear maps. ``admitted_s``: seconds of the call
    before the row's turn came (None: it waited for nobody); its other times count from then.
    """

    forwards: list[tuple[int, int, int]] = field(default_factory=list)
    queries: list[Any] = field(default_factory=list)
    fed: list[int] = field(default_factory=list)
    products: int = 0
    work: float = 0.0
    kv_read: int = 0
    admitted_s: float | None = None
    first_block_s: float | None = None
    finished_s: float | None = None

    @property
    def nfe(self) -> int:
        return len(self.forwards)

    def computed(self, per_position: int) -> int:
        """Positions' worth of linear maps that were multiplied, ``per_position`` multiply-adds each (rounded
        up).
        """
        return -(-self.products // per_position)

    @property
    def positions(self) -> int:
        """Query positions, as a mean over the layers where a policy computes some of them only (rounded
        up).
        """
        return math.ceil(self.work - 1e-6)


class Meter:
    """Per-row counts, and where the time of the call went (seconds; to be read once the device is idle).

    Moments are the host's clock on a CPU and events of the device's stream on a GPU, where the host only
    launches work.
    """

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        self.rows = [RowMeter() for _ in range(rows)]
        self.calls = 0
        # Implementations of attention that ran (harness.decoding.kernels).
        self.kernels: set[str] = set()
        self.started: float | None = None
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        self._spans: dict[Part, list[tuple[Any, Any]]] = defaultdict(list)

    def now(self) -> Any:
        """A moment that ``spent`` takes."""
        if self._cuda is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._cuda))
        return event

    def spent(self, part: Part, start: Any, stop: Any = None) -> None:
        """Book the time from ``start`` to ``stop`` (null: now)."""
        self._spans[part].append((start, self.now() if stop is None else stop))

    def seconds(self, part: Part) -> float:
        """Time booked on a part so far."""
        if self._cuda is None:
            return sum(stop - start for start, stop in self._spans[part])
        return sum(start.elapsed_time(stop) for start, stop in self._spans[part]) / 1000

    @property
    def forward_s(self) -> float:
        """Time inside the model."""
        return self.seconds("model")

    @property
    def select_s(self) -> float:
        """Time in the method's own code: outside forward passes and writes."""
        return self.seconds("decode") - self.seconds("forward") - self.seconds("write")

    def record(
        self,
        row: int,
        entry: tuple[int, int, int],
        keys: int,
        queries: Any = (),
        products: int = 0,
        fed: int | None = None,
        work: float | None = None,
    ) -> None:
        """Count one row's share of one forward pass; see RowMeter. ``fed``, ``work``: where they are not the
        entry's query length.
        """
        meter = self.rows[row]
        meter.forwards.append(entry)
        meter.queries.append(queries)
        meter.kv_read += keys
        meter.fed.append(entry[0] if fed is None else fed)
        meter.products += products
        meter.work += entry[0] if work is None else work
