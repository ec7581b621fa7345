"""Losses on fake CUDA tensors: every tensor that a loss makes must be made on the device of its inputs."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from methods.training.losses.sdtt import teacher_times


def test_sdtt_looks_at_times_on_the_device() -> None:
    with FakeTensorMode():
        times = teacher_times(torch.empty(3, device="cuda"), 0.1, 2)
    assert (times.device.type, tuple(times.shape)) == ("cuda", (2, 3))
