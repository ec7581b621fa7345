"""Caught by clock_intact and no_own_clock: makes the clock run at half speed."""

from __future__ import annotations

import time

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "own_clock"
    summary = "slow clock"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        true_clock = time.perf_counter
        if true_clock.__name__ == "perf_counter":
            time.perf_counter = lambda: true_clock() / 2
        super().decode(backbone, canvas, config)


METHOD = Cheat()
