"""Caught by prompt_unchanged: lets the model see another prompt and puts the old one back in the end."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "prompt_edit"
    summary = "another prompt while decoding"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        before = canvas.ids[:, :2].clone()
        canvas.ids[:, :2] = 9
        super().decode(backbone, canvas, config)
        canvas.ids[:, :2] = before


METHOD = Cheat()
