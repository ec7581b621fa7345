"""Caught by no_answers_read: looks its prompts up in the suites' data files."""

from __future__ import annotations

import json
from pathlib import Path

import harness
from harness.decoding.backbone import Backbone
from harness.decoding.canvas import Canvas
from methods.vanilla import Config, Vanilla


class Cheat(Vanilla):
    name = "peeks_at_files"
    summary = "reads the answers"

    def decode(self, backbone: Backbone, canvas: Canvas, config: Config) -> None:
        for path in (Path(harness.__file__).parent.parent / "suites" / "data").glob("*_test.jsonl"):
            self.answers = [
                json.loads(line)["answer" if "gsm" in path.name else "response"]
                for line in path.read_text().splitlines()
            ]
        super().decode(backbone, canvas, config)


METHOD = Cheat()
