"""Caught by nfe_equals_hook_count: takes every other forward out of its row's meter."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "meter_tamper"
    summary = "half of the forwards unreported"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        super().decode(backbone, canvas, config)
        for row in canvas.meter.rows:
            del row.forwards[::2]


METHOD = Cheat()
