"""Caught by forwards_through_backbone: runs half of the layers in every forward and puts them back."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "skips_layers"
    summary = "half of the model"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        body = backbone._model.model
        layers = body.layers
        body.layers = layers[: len(layers) // 2]
        super().decode(backbone, canvas, config)
        body.layers = layers


METHOD = Cheat()
