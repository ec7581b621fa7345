"""Where the workers run: in this process, or one each in Ray processes under verl's single controller."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from methods.training.grpo.worker import PolicyWorker, WorkerOptions

OBJECT_STORE_BYTES = 256 << 20


class LocalGroup:
    """One worker in this process, with the calling convention of verl's RayWorkerGroup: what goes to all
    comes back as a list.
    """

    world_size = 1

    def __init__(self, options: WorkerOptions) -> None:
        place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        before = {name: os.environ.get(name) for name in place}
        os.environ.update(place)
        self.worker = PolicyWorker(options)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        for name in ("generate", "log_probs", "update"):
            setattr(self, name, getattr(self.worker, name))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.worker, name)
        return lambda *args: [method(*args)]


@contextmanager
def workers(options: WorkerOptions, count: int, ray: bool) -> Iterator[Any]:
    """A group of ``count`` workers: their methods take and give whole batches."""
    if not ray:
        yield LocalGroup(options)
        return
    with _ray(options, count) as group:
        yield group


@contextmanager
def _ray(options: WorkerOptions, count: int) -> Iterator[Any]:
    # Ray would otherwise report usage to its makers and write a token into the home folder.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray  # pyright: ignore[reportMissingImports]
    from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup  # pyright: ignore[reportMissingImports]

    gpu = options.device.startswith("cuda") and torch.cuda.is_available()
    ray.init(
        num_cpus=count,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
    )
    try:
        # verl's default of 10 workers per slot asks for 10 cores each, and then waits for them for ever.
        pool = RayResourcePool([count], use_gpu=gpu, max_colocate_count=1)
        wanted = RayClassWithInitArgs(ray.remote(PolicyWorker), options)
        yield RayWorkerGroup(pool, wanted, device_name="cuda" if gpu else "cpu", use_gpu=gpu)
    finally:
        ray.shutdown()
