"""Distillers under ranks: the processes that a launcher would start, and what they leave behind."""

from __future__ import annotations

import os
import random
import signal
import socket
from pathlib import Path
from unittest import mock

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness.model.spec import ModelSpec
from methods.training import export, nano
from methods.training.data import corpus
from tests.commands import Started, started
from tests.helpers import wait_until

TINY = ModelSpec("qwen2", 1024, 32, 64, 2, 2, 1, 16, qkv_bias=True)


def tiny_base(folder: Path) -> Path:
    """A checkpoint of two layers in Dream's layout, with a tokenizer like nano's."""
    tokenizer: Tokenizer = corpus.train_tokenizer(0, count=1000)
    export.save_model(folder, nano.new_model(TINY, 0), tokenizer, diffusion=True)
    return folder


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def start_ranks(count: int, *words: object) -> list[Started]:
    """``bench WORDS`` as so many ranks of one machine, with the variables that torchrun sets."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    found = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
        with mock.patch.dict(os.environ, {**place, **own, "OMP_NUM_THREADS": "1"}):
            found.append(started(*words))
    return found


def run_ranks(count: int, *words: object) -> None:
    """All ranks to their end; AssertionError with what they said if one fails."""
    processes = start_ranks(count, *words)
    ended = [process.wait() for process in processes]
    assert not any(ended), "\n".join(process.errors() for process in processes)


def run_killed(count: int, work: Path, draws: random.Random, *words: object, kills: int = 3) -> int:
    """The same, but ``kills`` times a random rank is killed at a random moment after a checkpoint was written
    (the other one ends by itself or is killed too); returns how many kills came before the run had ended.
    """
    hit = 0
    for _ in range(kills):
        processes = start_ranks(count, *words)
        before = checkpoints(work)
        wait_until(lambda before=before: checkpoints(work) != before, processes[0])
        victim = processes[draws.randrange(count)]
        wait_until(lambda: draws.random() < 0.02, victim, 60)
        hit += victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait()
    run_ranks(count, *words)
    return hit


def checkpoints(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in work.glob("*/checkpoint.pt")}


def final_state(work: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoints below ``work``, by folder and name."""
    found = {}
    for path in sorted(work.glob("*/checkpoint.pt")):
        state = torch.load(path, weights_only=True)["model"]
        found |= {f"{path.parent.name.split('-')[0]}/{name}": value for name, value in state.items()}
    return found


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest absolute difference of any number."""
    assert first.keys() == second.keys()
    assert first
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
