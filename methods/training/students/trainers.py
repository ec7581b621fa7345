"""All distillers of masked models by name."""

from __future__ import annotations

from typing import Any

from methods.training.students import cfd, d2f, d3llm, dcd, dimo, lockstep, sdtt
from methods.training.students.trainer import Trainer

TRAINERS: dict[str, Trainer[Any]] = {
    module.TRAINER.name: module.TRAINER for module in (d2f, sdtt, dcd, cfd, d3llm, dimo, lockstep)
}
