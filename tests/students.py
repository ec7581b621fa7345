"""Students of a tiny model, ready for one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.training import options
from methods.training.students.student import Student
from methods.training.students.trainers import TRAINERS


def made(method: str, base: Path, folder: Path, **given: Any) -> Student[Any]:
    where = {"model": str(base), "output": folder / "out", "work": folder / "work"}
    asked = {"answers": 0, "pool_items": 60, "precision": "no", "dropout": 0.1, **given}
    found = Student(options.preset(TRAINERS[method].options, method, "smoke", {**where, **asked}), method)
    found.net.train()
    with torch.no_grad():
        for parameter in found.rounds.student:
            parameter.add_(0.01)
    return found


def gradient(student: Student[Any]) -> tuple[float, Tensor]:
    """Loss and gradient of one batch."""
    found, total = TRAINERS[student.method].build(student)(3), 0.0
    for loss in [found] if isinstance(found, Tensor) else found:
        loss.backward()
        total += float(loss.detach())
    trained = [p for group, _ in student.groups for p in group]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    return total, torch.cat([part.flatten() for part in parts])
