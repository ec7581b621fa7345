"""Caught by harness_untouched: replaces the meter's record with one that halves the key positions."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.decoding.meter import Meter
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "patches_meter"
    summary = "another meter"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        honest = Meter.record
        if honest.__name__ == "record":
            Meter.record = lambda self, row, entry, keys, *rest: honest(
                self, row, entry, max(entry[0], keys // 2), *rest
            )  # pyright: ignore
        super().decode(backbone, canvas, config)


METHOD = Cheat()
