"""Caught by forwards_through_backbone: decodes on a copy of the model that nobody hooked, then repeats one
metered pass.
"""

from __future__ import annotations

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from harness.decoding.forward import Forward
from harness.model.transformer import Transformer
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "model_copy"
    summary = "forwards on a private copy"
    copy: Transformer | None = None

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        if self.copy is None:
            self.copy = Transformer(backbone.spec)
            self.copy.load_state_dict(backbone._model.state_dict(), strict=False)
        model = self.copy.eval()
        for row in canvas.rows:
            ids, at = [row.token(position) for position in range(row.length)], row.masked()
            with torch.inference_mode():
                for position in at:
                    logits = model(torch.tensor([ids]))[0, position - 1 if backbone.spec.shift else position]
                    logits[canvas.rules.mask_id] = -1e9
                    ids[position] = int(logits.argmax())
            backbone.forward(canvas, Forward(feed=(0, row.length), at=at), row=row.index)
            row.commit(at, [ids[position] for position in at])


METHOD = Cheat()
