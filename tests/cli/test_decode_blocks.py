"""``bench decode`` on block-diffusion checkpoints: ids, steps and forwards of the public references, through
the command itself.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.model import catalog
from methods.block_diffusion.plan import Config
from tests.conftest import GOLDEN
from tests.methods.test_block_diffusion import CASES, canvas_of, config_of, forwards_of

SHAPES = [("sdar", None), ("bd3lm", None), ("fast_dllm_v2", "generate"), ("fast_dllm_v2", "batch_sample")]


def cases_of(preset: str, function: str | None, count: int) -> list[dict[str, Any]]:
    """Greedy cases spread over those of a kind."""
    known = [
        case
        for case in CASES
        if (case["settings"]["preset"], case["settings"].get("function")) == (preset, function)
    ]
    greedy = [case for case in known if not case["settings"].get("temperature")]
    return greedy[:: max(1, len(greedy) // count)][:count]


@pytest.mark.parametrize(("preset", "function"), SHAPES)
def test_the_command_equals_the_reference(
    preset: str, function: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, case in enumerate(cases_of(preset, function, 4)):
        canvas, config = canvas_of([case]), config_of(case)
        # The references are told where an answer ends; the checkpoints name other ids.
        entry = catalog.Entry(path=str(GOLDEN / case["model"]), end_ids=case["settings"]["stop_ids"])
        monkeypatch.setattr(catalog, "catalog", lambda entry=entry, number=number: {f"case-{number}": entry})
        prompts, output = tmp_path / "prompts.jsonl", tmp_path / f"{number}.jsonl"
        prompts.write_text(json.dumps({"prompt": case["prompt"]}) + "\n")
        given = {field.name: getattr(config, field.name) for field in fields(Config)}
        given["max_new_tokens"] = canvas.rules.new_tokens
        sets = [
            text for key, value in given.items() if value is not None for text in ("--set", f"{key}={value}")
        ]
        arguments = [
            "--method",
            "block_diffusion",
            "--model",
            f"case-{number}",
            "--stop-rule",
            canvas.rules.stop_rule,
            *sets,
        ]
        done = CliRunner().invoke(
            app,
            ["decode", "--prompts", str(prompts), "--output", str(output), *arguments],
            catch_exceptions=False,
        )
        assert done.exit_code == 0
        line = json.loads(output.read_text())
        written = sum(step is not None for step in case["steps"])
        assert line["status"] == "ok"
        assert line["output"][:written] == case["output"][:written]
        assert line["step_map"][:written] == case["steps"][:written]
        assert line["forwards"] == forwards_of(case)
        assert line["nfe"] == case["nfe"]
