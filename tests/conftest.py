"""Shared fixtures. Everything runs on the CPU with one thread, so that parallel workers do not fight."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)
# What the imports make stays for good: looking through it for garbage, now and in every test, finds none.
gc.disable()

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference outputs and tiny checkpoints."""
    return GOLDEN
