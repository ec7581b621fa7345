"""Caught by rules_unchanged: makes a frequent token end the text, so that decoding stops early."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "stop_rule"
    summary = "its own end-of-text"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        object.__setattr__(canvas.rules, "eos_ids", frozenset(range(0, canvas.rules.vocab_size, 2)))
        super().decode(backbone, canvas, config)


METHOD = Cheat()
