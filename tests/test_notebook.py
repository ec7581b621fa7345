"""docs/tour.ipynb runs from its first cell to its last, and shows what it puts out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.notebook import PATH, execute


def test_every_cell_runs_and_shows_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(PATH.read_text())
    made = list(execute(notebook))
    assert [cell["execution_count"] for cell, _ in made] == [1, 2, 3, 4]
    for cell, outputs in made:
        assert _kinds(outputs) == _kinds(cell["outputs"]), cell["id"]
    # The last cell reads stored runs alone: the same figures on every machine.
    assert made[-1][1] == made[-1][0]["outputs"]
    assert list(tmp_path.iterdir()) == []


def _kinds(outputs: list[dict[str, Any]]) -> list[str]:
    return [output.get("name") or min(output["data"]) for output in outputs]


def test_it_is_small_and_names_no_machine() -> None:
    text = PATH.read_text()
    assert len(text) < 200_000
    assert str(PATH.parents[1]) not in text
    assert str(Path.home()) not in text
