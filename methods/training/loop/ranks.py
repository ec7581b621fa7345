"""Data parallel training: the batches of a step are shared among ranks, their gradients added up.

A batch is a function of (seed, number) and numbers are counted over all ranks, so that any number of ranks
takes the same steps. What differs is the order in which float32 gradients are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, KwargsHandler
from torch import Tensor

from harness.engine.ranks import RankError, world_size
from harness.model.device import pick_device

PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
PATIENCE = timedelta(days=7)
"""How long ranks wait for the first, which may answer prompts or validate for hours."""
BUCKET = 1 << 24
"""Numbers that are sent at once."""
T = TypeVar("T")


def rank_device(name: str | None) -> torch.device:
    """The device of this rank: as asked for, or of several ranks on GPUs the one of its number."""
    device = pick_device(name)
    if world_size() == 1 or device.type != "cuda":
        return device
    place, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.index is not None or place >= there:
        raise RankError(
            f"{world_size()} ranks take one GPU each, and this is rank {place} of a machine with {there}: "
            "start as many ranks as GPUs, with --device cuda or without it"
        )
    return torch.device("cuda", place)


def join(device: torch.device, precision: Literal["bf16", "no"] = "no") -> Accelerator:
    """accelerate's view of this process, joined with the other ranks of its launcher, if there are any."""
    AcceleratorState._reset_state(reset_partial_state=True)
    patient: list[KwargsHandler] = [InitProcessGroupKwargs(timeout=PATIENCE)] if world_size() > 1 else []
    found = Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=patient)
    if found.distributed_type not in PARALLEL:
        raise RankError(
            f"the launcher asks for {found.distributed_type.value}: students train data parallel only; use "
            "torchrun, or accelerate launch --multi_gpu (on processors too)"
        )
    return found


class Ranks:
    """The ranks of the running process group, or the one process there is. ``device`` is where sums are
    taken; ``sharded`` tells that each holds its part of the weights, whose gradients are added up elsewhere.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.index, self.count = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.device = device or torch.device("cpu")
        self.sharded = False

    @property
    def first(self) -> bool:
        """Whether this rank writes, logs and validates."""
        return self.index == 0

    def check(self, accumulate: int, size: Mapping[str, int]) -> None:
        """RankError unless every rank gets equally many of the ``accumulate`` batches of a step; it names
        the setting of their ``size``.
        """
        if accumulate % self.count:
            total = -(-accumulate // self.count) * self.count
            smaller = " ".join(
                f"--set {name}={max(1, value * accumulate // total)}" for name, value in size.items()
            )
            raise RankError(
                f"{accumulate} batch(es) per step do not divide among {self.count} ranks: --set "
                f"accumulate={total} {smaller} makes steps of the same size"
            )

    def batches(self, step: int, accumulate: int) -> range:
        """Numbers of the batches that this rank takes in a step."""
        return range(step * accumulate + self.index, (step + 1) * accumulate, self.count)

    def totals(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks."""
        if self.count == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._reduce(held)
        return held.tolist()

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients over the ranks, in place. A parameter that has one on some ranks only counts
        as zero on the others; one that has none anywhere keeps none.
        """
        if self.count == 1 or self.sharded:
            return
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        present = present.to(self.device)
        self._reduce(present, dist.ReduceOp.MAX)
        for parameter, used in zip(parameters, present.tolist(), strict=True):
            if used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            self._reduce(flat)
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, part in zip(bucket, flat.split(sizes), strict=True):
                gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def check_equal(self, parameters: Sequence[Tensor]) -> None:
        """RankError if the ranks no longer hold the same weights, which only a fault of a machine can do.
        Parts of weights have nothing to be compared with.
        """
        if self.count == 1 or self.sharded:
            return
        sums = torch.stack([p.detach().double().sum() for p in parameters]).to(self.device).nan_to_num()
        ends = torch.stack([sums, -sums])
        self._reduce(ends, dist.ReduceOp.MAX)
        if not torch.equal(ends[0], -ends[1]):
            raise RankError("the ranks hold different weights: this run cannot go on; start it again")

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The body runs on rank 0, then on the others, which find there what rank 0 has written. Where rank 0
        failed, the others end with RankError.
        """
        if not self.first:
            self._wait_for_first()
            yield
            return
        try:
            yield
        except Exception:
            self.totals([1.0])
            raise
        self.totals([0.0])

    def on_first(self, work: Callable[[], T], otherwise: T) -> T:
        """What ``work`` gives on rank 0, while the others wait and get ``otherwise``."""
        if self.count == 1:
            return work()
        result = otherwise
        with self.first_alone():
            if self.first:
                result = work()
        return result

    def _wait_for_first(self) -> None:
        if self.totals([0.0])[0]:
            raise RankError("rank 0 failed; its message says why")

    def _reduce(self, held: Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
        try:
            dist.all_reduce(held, how)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise RankError(
                f"another rank is gone ({reason}): give the same command again, it goes on from the last "
                "checkpoint"
            ) from None


def leave() -> None:
    """End the process group, if there is one: a process that exits with its threads running may abort."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of one type and about ``BUCKET`` numbers at most."""
    held: list[Tensor] = []
    for tensor in tensors:
        full = sum(one.numel() for one in held) + tensor.numel() > BUCKET
        if held and (full or held[0].dtype != tensor.dtype):
            yield held
            held = []
        held.append(tensor)
    if held:
        yield held
