"""Caught by nfe_equals_hook_count: runs the model behind the backbone and meters the last forward only."""

from __future__ import annotations

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "fewer_forwards"
    summary = "unmetered forwards"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        for row in canvas.rows:
            ids = [row.token(position) for position in range(row.length)]
            at = row.masked()
            for position in at[:-1]:
                logits = backbone._model(torch.tensor([ids]))[0]
                ids[position] = int(logits[position - 1][: canvas.rules.vocab_size - 3].argmax())
            backbone.forward(canvas, Forward(feed=(0, row.length), at=at), row=row.index)
            row.commit(at, [ids[position] if ids[position] != canvas.rules.mask_id else 0 for position in at])


METHOD = Cheat()
