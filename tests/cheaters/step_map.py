"""Caught by tokens_through_commit: claims in the step map that the first forward wrote everything."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "step_map"
    summary = "a forged trace"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        super().decode(backbone, canvas, config)
        for row in canvas.rows:
            row._step = [0] * len(row._step)


METHOD = Cheat()
