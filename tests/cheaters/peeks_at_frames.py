"""Caught by no_answers_read: walks up the call stack to the grader's document, without importing anything."""

from __future__ import annotations

from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "peeks_at_frames"
    summary = "reads the caller's variables"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        try:
            raise LookupError
        except LookupError as error:
            frame = error.__traceback__ and error.__traceback__.tb_frame
        while frame is not None:
            self.document = frame.f_locals.get("doc")
            frame = frame.f_back
        super().decode(backbone, canvas, config)


METHOD = Cheat()
