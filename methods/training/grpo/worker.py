"""The worker of verl's single controller: holds the policy, answers prompts, scores answers, takes optimiser
steps.

``@register`` leaves the methods callable in the same process, so the very same class runs with and without
Ray.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from verl import DataProto  # pyright: ignore[reportMissingImports]
from verl.single_controller.base import Worker  # pyright: ignore[reportMissingImports]
from verl.single_controller.base.decorator import (  # pyright: ignore[reportMissingImports]
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)

from methods.training.grpo.estimators import Answer, Estimator
from methods.training.grpo.objective import Objective, Targets, policy_loss
from methods.training.grpo.policy import Policy, PolicyOptions
from methods.training.grpo.rollout import RolloutOptions, roll_out
from methods.training.grpo.scoring import AnswerBatch, Chunk, accumulate, chunks, estimate, idle_chunk

# Every worker gets the same arguments and returns its own answer; a batch is cut into equal parts.
ALL: Any = Dispatch.ONE_TO_ALL  # pyright: ignore[reportAttributeAccessIssue]
ROWS = make_nd_compute_dataproto_dispatch_fn(mesh_name="dp")


@dataclass(frozen=True)
class WorkerOptions:
    """Everything a worker needs. ``inner`` optimiser steps per batch; ``rows`` view rows per forward;
    ``clip`` of the gradient norm.
    """

    policy: PolicyOptions
    rollout: RolloutOptions
    estimator: Estimator
    objective: Objective
    inner: int
    rows: int
    lr: float
    weight_decay: float
    beta2: float
    clip: float
    device: str = "cpu"
    threads: int = 1


class PolicyWorker(Worker):
    """One replica or shard of the policy."""

    def __init__(self, options: WorkerOptions) -> None:
        super().__init__()
        self.options = options
        torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        if self.world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, rank=self.rank, world_size=self.world_size)
        self._register_dispatch_collect_info("dp", dp_rank=self.rank, is_collect=True)

    @register(dispatch_mode=ALL)
    def init(self) -> dict[str, float]:
        """Load weights and optimiser; returns seconds, trained parameters and process id."""
        started, options = time.perf_counter(), self.options
        mesh = (
            dist.device_mesh.init_device_mesh(self.device.type, (self.world_size,))
            if self.world_size > 1
            else None
        )
        self.policy = Policy(options.policy, self.device, mesh)
        self.mask_id = int(self.policy.model.spec.mask_id or 0)
        self.optimiser = torch.optim.AdamW(
            self.policy.trained, lr=options.lr, betas=(0.9, options.beta2), weight_decay=options.weight_decay
        )
        count = sum(parameter.numel() for parameter in self.policy.trained)
        return {"seconds": time.perf_counter() - started, "trained": count, "pid": os.getpid()}

    @register(dispatch_mode=ROWS)
    def generate(self, data: DataProto) -> DataProto:
        """``prompts`` [rows, longest], ``prompt_length`` and ``repeat`` [rows] in; the tensors of
        rollout.Rollouts and the texts out.
        """
        lengths = data.batch["prompt_length"].tolist()
        prompts = [row[:length].tolist() for row, length in zip(data.batch["prompts"], lengths, strict=True)]
        with self.policy.computing():
            found = roll_out(
                self.options.rollout, self.policy.backbone(), prompts, data.batch["repeat"].tolist()
            )
        names = ("outputs", "steps", "scored", "nfe", "positions")
        texts = {"text": np.array(found.texts, dtype=object), "status": np.array(found.status, dtype=object)}
        return DataProto.from_dict({name: getattr(found, name) for name in names}, texts)

    @register(dispatch_mode=ROWS)
    def log_probs(self, data: DataProto) -> DataProto:
        """Estimates [rows, inner, canvas] by the present (``which`` = "old") or the reference policy ("ref"),
        and entropies [rows, canvas].

        Needs ``prompts``, ``prompt_length``, ``outputs``, ``steps``, ``scored`` and ``seed``.
        """
        batch, which = _batch(data), data.meta_info["which"]
        with self.policy.reference() if which == "ref" else nullcontext():
            found = [
                estimate(self.policy.score, self._chunks(batch, inner), batch.outputs.shape)
                for inner in range(self.options.inner)
            ]
        return DataProto.from_dict(
            {which: torch.stack([values for values, _ in found], 1), "entropy": found[0][1]}
        )

    @register(dispatch_mode=ROWS)
    def update(self, data: DataProto) -> DataProto:
        """``inner`` optimiser steps on answers with ``old``, ``ref`` (or none) and ``advantages``; sums per
        answer for the log.
        """
        batch, logged = _batch(data), dict[str, list[Tensor]]()
        for group in self.optimiser.param_groups:
            group["lr"] = data.meta_info["lr"]
        for inner in range(self.options.inner):
            sums = self._inner_step(batch, data, inner)
            for name, value in sums.items():
                logged.setdefault(name, []).append(value)
        return DataProto.from_dict({name: torch.stack(values, 1) for name, values in logged.items()})

    def _inner_step(self, batch: AnswerBatch, data: DataProto, inner: int) -> dict[str, Tensor]:
        old, parts = data.batch["old"][:, inner], self._chunks(batch, inner)
        # Before the first step weights and masks are those of the old policy, and so is the estimate.
        new = old if inner == 0 else estimate(self.policy.score, parts, batch.outputs.shape)[0]
        leaf = new.detach().clone().requires_grad_(True)
        reference = data.batch["ref"][:, inner] if "ref" in data.batch else None
        spread = data.batch["advantages"][:, None].expand_as(old)
        meta, scored = data.meta_info, data.batch["scored"]
        targets = Targets(
            old, reference, spread, scored, meta["tokens"], self.world_size, meta.get("answers", 0)
        )
        loss = policy_loss(leaf, targets, self.options.objective, self.options.estimator)
        loss.value.backward()
        assert leaf.grad is not None
        accumulate(self.policy.score, parts, leaf.grad)
        self.policy.reduce_gradients(self.world_size)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.trained, self.options.clip)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # pyright: ignore[reportAttributeAccessIssue]
        if np.isfinite(norm):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        rows = torch.ones(len(old))
        # Each worker's loss is scaled for averaging; its share of the sum is what can be added up over rows.
        share = rows * float(loss.value.detach()) / self.world_size / len(old)
        return {
            "clipped": loss.clipped,
            "ratio": loss.ratio,
            "kl": loss.kl,
            "count": loss.count,
            "loss": share,
            "norm": rows * norm,
        }

    def _chunks(self, batch: AnswerBatch, inner: int) -> list[Chunk]:
        found = chunks(batch, self.options.estimator, inner, self.mask_id, self.options.rows, self.device)
        if not self.policy.sharded:
            return found
        # Shards are gathered in every forward, so all workers must run equally many.
        most = torch.tensor(len(found), device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [*found, *(idle_chunk(self.device) for _ in range(int(most) - len(found)))]

    @register(dispatch_mode=ALL)
    def sync_reference(self) -> None:
        """The reference policy becomes the present one."""
        self.policy.sync_reference()

    @register(dispatch_mode=ALL)
    def save(self, path: str, step: int, seconds: float) -> None:
        """Write a checkpoint after ``step`` finished steps."""
        self.policy.save(Path(path), self.optimiser, step, seconds, self.rank)

    @register(dispatch_mode=ALL)
    def load(self, path: str) -> tuple[int, float]:
        """Restore a checkpoint; (finished steps, seconds), zeros if there is none."""
        return self.policy.load(Path(path), self.optimiser, self.rank)

    @register(dispatch_mode=ALL)
    def export(self, folder: str) -> None:
        """Write the trained policy for ``bench run``."""
        self.policy.export(Path(folder), self.rank)

    @register(dispatch_mode=ALL)
    def memory(self) -> dict[str, int]:
        """Peak memory of this worker in bytes: resident, and on the accelerator (0 without one)."""
        device = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "device": device}


def _batch(data: DataProto) -> AnswerBatch:
    rows = data.batch
    columns = (rows[name] for name in ("prompt_length", "scored", "steps", "seed"))
    answers = [
        Answer(int(length), scored, steps, int(seed))
        for length, scored, steps, seed in zip(*columns, strict=True)
    ]
    return AnswerBatch(rows["prompts"], rows["outputs"], answers)
