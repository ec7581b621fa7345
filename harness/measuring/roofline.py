"""What the hardware allows: a lower bound on the time of recorded forward passes, and a run's share of it.

A forward reads every weight of body and head once (the embedding is a gather) and the cached keys and values,
and multiplies 2 x body parameters per query position; it cannot be faster than the slower of the two. The
head's multiplications are left out, because it runs at chosen positions only: the bound stays a bound.
Bandwidth and matmul rate are measured once per device, dtype and thread count and cached; bandwidth with a
buffer as large as the model, because a small model lives in the processor's cache.

Other work on the machine can only make a measurement too slow, so the best of all measurements counts, and a
run that seems to beat its roof makes it measure again (``settled_share``).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from harness.measuring.environment import device_name
from harness.records.files import write_atomic
from harness.records.outside import reason
from harness.records.schema import RecordError, Run, Sample

# torch is imported where something is measured: a projection of stored runs needs no second to wait for it.
if TYPE_CHECKING:
    import torch

    from harness.decoding.backbone import Backbone

MIB = 1 << 20
BUDGET_S = 0.4
# Times that the device is measured again before a run's share above 1 is believed.
RETRIES = 3

# [query, cached] of every row that shares one forward pass.
Pass = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Hardware:
    """``bandwidth`` in bytes/s, ``flops`` in floating-point operations/s (a multiply-add is two)."""

    name: str
    bandwidth: float
    flops: float


@dataclass(frozen=True)
class ModelCost:
    """What one forward costs: weight bytes read, KV bytes per cached token, operations per query position and
    per query-key pair.
    """

    weight_bytes: float
    kv_bytes: float
    position_flops: float
    pair_flops: float


@dataclass(frozen=True)
class Roofline:
    """A device and a model's cost on it."""

    hardware: Hardware
    cost: ModelCost

    def seconds(self, rows: Pass) -> float:
        """Least time of one forward pass shared by ``rows``."""
        cached = sum(kept for _, kept in rows)
        operations = sum(
            query * (self.cost.position_flops + self.cost.pair_flops * max(query, kept))
            for query, kept in rows
        )
        moved = self.cost.weight_bytes + cached * self.cost.kv_bytes
        return max(moved / self.hardware.bandwidth, operations / self.hardware.flops)

    def roof_tps(self, tpf: float, positions: float = 1.0, cached: float = 0.0) -> float:
        """Most tokens/s at ``tpf`` tokens per forward of ``positions`` queries over ``cached`` keys (batch
        1).
        """
        operations = positions * (self.cost.position_flops + self.cost.pair_flops * max(positions, cached))
        moved = self.cost.weight_bytes + cached * self.cost.kv_bytes
        return tpf / max(moved / self.hardware.bandwidth, operations / self.hardware.flops)

    def record(self) -> dict[str, Any]:
        """Plain values for run.json; ``from_record`` reads them back."""
        return {"hardware": asdict(self.hardware), "cost": asdict(self.cost)}

    def at_best(self, other: Hardware) -> Roofline:
        """The same model on the better of two measurements of one device."""
        mine = self.hardware
        best = Hardware(mine.name, max(mine.bandwidth, other.bandwidth), max(mine.flops, other.flops))
        return Roofline(best, self.cost)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Roofline:
        """What ``record`` wrote; RecordError for anything else."""
        try:
            found = TypeAdapter(cls).validate_python(record)
        except ValidationError as fault:
            raise RecordError(f"a roofline that is none ({reason(fault)})") from None
        rates, costs = (found.hardware.bandwidth, found.hardware.flops), asdict(found.cost).values()
        if not all(0 < rate < math.inf for rate in rates) or not all(0 <= cost < math.inf for cost in costs):
            raise RecordError("a roofline with a rate that is not positive, or a cost that is negative")
        return found


def passes(samples: Iterable[Sample], batch_size: int) -> list[Pass]:
    """The forward passes of a run: rows that were decoded together share their first, second, ... pass.

    Of a call with more than ``batch_size`` rows (continuous batching) the next row begins in the pass after
    another's last. Samples without a batch number: neighbours in the order of decoding made up a batch.
    """

    def number(sample: Sample) -> int:
        return sample.order // batch_size if sample.batch is None else sample.batch

    joined: list[Pass] = []
    ordered = sorted(
        (sample for sample in samples if sample.forwards), key=lambda sample: (number(sample), sample.order)
    )
    for _, group in groupby(ordered, key=number):
        waiting, live = deque(sample.forwards for sample in group), list[deque[tuple[int, int, int]]]()
        while waiting or live:
            live += [deque(waiting.popleft()) for _ in range(min(len(waiting), batch_size - len(live)))]
            joined.append([forwards.popleft()[:2] for forwards in live])
            live = [forwards for forwards in live if forwards]
    return joined


def roof_share(run: Run, samples: Sequence[Sample], roofline: Roofline | None = None) -> float | None:
    """Least possible time of a run's forwards over the measured time; None where either is unknown.

    The roofline is the one stored in ``run`` (``Run.roofline``) unless given.
    """
    if roofline is None:
        if run.roofline is None:
            return None
        roofline = Roofline.from_record(run.roofline)
    timed = [sample for sample in samples if sample.time_s and sample.forwards]
    spent = sum(sample.time_s or 0.0 for sample in timed)
    return sum(map(roofline.seconds, passes(timed, run.plan.batch_size))) / spent if spent else None


def settled_share(run: Run, samples: Sequence[Sample], measure: Callable[[], Roofline]) -> float | None:
    """``roof_share``; while it is above 1, ``measure`` is asked for the device again, up to RETRIES times,
    before that is believed.

    A better figure replaces the one in ``run.roofline``, whose ``again`` lists every further measurement and
    the share before it.
    """
    share = roof_share(run, samples)
    while (
        run.roofline is not None
        and share is not None
        and share > 1
        and len(run.roofline.get("again", [])) < RETRIES
    ):
        found = measure()
        again = [*run.roofline.get("again", []), {**asdict(found.hardware), "share_before": share}]
        run.roofline = {**Roofline.from_record(run.roofline).at_best(found.hardware).record(), "again": again}
        share = roof_share(run, samples)
    return share


def model_cost(backbone: Backbone) -> ModelCost:
    """Costs of the model as loaded, adapters that were not merged included."""
    import torch

    from harness.model.quantize import stored

    spec, model = backbone.spec, backbone._model
    body = [
        *model.model.layers.parameters(),
        *model.model.layers.buffers(),
        *model.model.norm.parameters(),
    ]
    numbers = sum(part.numel() for part in body)
    size = torch.empty(0, dtype=backbone.dtype).element_size()

    def held(tensor: torch.Tensor) -> int:
        parts = list(stored(tensor))
        return size * tensor.numel() if len(parts) == 1 else sum(part.nbytes for part in parts)

    return ModelCost(
        weight_bytes=sum(map(held, body)) + size * model.lm_head.weight.numel(),
        kv_bytes=2 * size * spec.num_layers * spec.num_kv_heads * spec.head_dim,
        position_flops=2 * numbers,
        pair_flops=4 * spec.num_layers * spec.num_heads * spec.head_dim,
    )


def roofline_for(backbone: Backbone, fresh: bool = False) -> Roofline:
    """The roofline of a loaded model on its device; measures (about two seconds) only what no earlier run has
    cached.

    Call it outside the clocks of a run. ``fresh`` measures again and keeps the better figures.
    """
    cost = model_cost(backbone)
    return Roofline(hardware(backbone.device, backbone.dtype, cost.weight_bytes, fresh), cost)


def cache_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dllm-bench" / "roofline.json"


def hardware(device: torch.device, dtype: torch.dtype, weight_bytes: float, fresh: bool = False) -> Hardware:
    """Measured bandwidth (buffer of about ``weight_bytes``) and matmul rate of a device, from the cache if
    there.
    """
    import torch

    # Far beyond any cache, and no more than a GPU that holds a model can spare.
    largest = (1024 if device.type == "cuda" else 512) * MIB
    size = min(max(1 << (int(weight_bytes) - 1).bit_length(), MIB), largest)
    kind, threads = (
        str(dtype).removeprefix("torch."),
        torch.get_num_threads() if device.type == "cpu" else None,
    )
    cores = (
        f" of {len(os.sched_getaffinity(0))} cores" if threads and hasattr(os, "sched_getaffinity") else ""
    )
    key = (
        f"{device_name(device)} {kind} threads={threads}{cores} buffer={size // MIB}MiB "
        f"torch={torch.__version__}"
    )
    path = cache_path()
    known = _read(path)
    if key not in known or fresh:
        now = {"bandwidth": _bandwidth(device, size), "flops": _matmul_rate(device, dtype)}
        known = _read(path)
        known[key] = {name: max(value, known.get(key, {}).get(name, 0.0)) for name, value in now.items()}
        _write(path, known)
    return Hardware(key, known[key]["bandwidth"], known[key]["flops"])


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text())
        return {
            key: {"bandwidth": float(value["bandwidth"]), "flops": float(value["flops"])}
            for key, value in known.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _write(path: Path, known: dict[str, dict[str, float]]) -> None:
    # A cache that cannot be written costs two seconds per run and no result.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(known, indent=1) + "\n")
    except OSError:
        return


def _best(device: torch.device, work: Callable[[], object]) -> float:
    """Shortest time of ``work`` in seconds, over BUDGET_S and at least five runs."""
    import torch

    best, spent, runs = float("inf"), 0.0, 0
    while spent < BUDGET_S or runs < 5:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - started
        best, spent, runs = min(best, elapsed), spent + elapsed, runs + 1
    return best


def _bandwidth(device: torch.device, size: int) -> float:
    """Bytes/s: the better of a copy (reads and writes) and a matrix-vector product (reads alone, as a decode
    step does).
    """
    import torch

    with torch.inference_mode():
        source = torch.ones(size // 4, device=device)
        target = torch.empty_like(source)
        matrix, vector = source.view(-1, 1024), torch.ones(1024, device=device)
        copying = 2 * size / _best(device, lambda: target.copy_(source))
        return max(copying, size / _best(device, lambda: torch.mv(matrix, vector)))


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few matrix products, square and of a canvas' shape."""
    import torch

    shapes = (
        [(8192, 8192, 8192), (4096, 4096, 4096)]
        if device.type == "cuda"
        else [(1024, 1024, 1024), (512, 512, 512), (96, 256, 704)]
    )
    rates = []
    for m, k, n in shapes:
        with torch.inference_mode():
            left = torch.randn(m, k, device=device).to(dtype)
            right = torch.randn(n, k, device=device).to(dtype)
            product = partial(torch.nn.functional.linear, left, right)
            rates.append(2 * m * k * n / _best(device, product))
    return max(rates)
