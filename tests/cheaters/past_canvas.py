"""Caught by ids_match_commits: writes the tail of the answer into the device tensor, past commit."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "past_canvas"
    summary = "tokens behind the canvas"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        super().decode(backbone, canvas, config)
        canvas.ids[:, -4:] = 7


METHOD = Cheat()
