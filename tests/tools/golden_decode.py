"""All 261 reference cases of the further decoders through ``bench decode``:
``python -m tests.tools.golden_decode``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from harness.cli import app


def arguments(case: Mapping[str, Any], models: Path, frequencies: Path, folder: Path) -> list[str]:
    """The command line of a case; its prompt is written to ``folder``."""
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": case["prompt"]}) + "\n")
    settings = dict(case["settings"])
    if case["method"] == "pc_sampler":
        settings["token_freq"] = str(frequencies)
    files = ["--prompts", str(folder / "prompts.jsonl"), "--output", str(folder / "out.jsonl")]
    line = [
        "decode",
        "--method",
        case["method"],
        "--model",
        str(models / case["model"]),
        "--stop-rule",
        "reference",
        *files,
    ]
    for key, value in settings.items():
        line += ["--set", f"{key}={_text(value)}"]
    return line


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_case(case: Mapping[str, Any], models: Path, frequencies: Path, folder: Path) -> dict[str, Any]:
    """What the command wrote for a case."""
    done = CliRunner().invoke(app, arguments(case, models, frequencies, folder))
    if done.exception is not None:
        raise done.exception
    return json.loads((folder / "out.jsonl").read_text())


def differences(case: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """Names of what the command wrote otherwise than the reference did."""
    fields = [
        name for name in ("output", "nfe", "forwards", "queries") if name in case and line[name] != case[name]
    ]
    if "steps" in case:
        written = [step for step, place in zip(case["steps"], line["step_map"], strict=True) if place >= 0]
        fields += ["step_map"] if written != [place for place in line["step_map"] if place >= 0] else []
    return fields


def main() -> None:
    from tests.conftest import GOLDEN
    from tests.methods.test_golden_more import MORE, all_cases

    equal = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in all_cases():
            found = differences(case, run_case(case, GOLDEN, MORE / "token_freq.json", Path(folder)))
            equal += not found
            if found:
                print(f"{case['case']}: {', '.join(found)}", flush=True)
    print(f"{equal} of {len(all_cases())} cases equal through bench decode")


if __name__ == "__main__":
    main()
