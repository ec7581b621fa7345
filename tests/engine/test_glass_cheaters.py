"""No attempt to forge figures succeeds behind the glass; docs/glass.md says what becomes of each, here and in
one process.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.engine.generator import Generation
from harness.sandbox import launch
from tests.cheaters.glass.attempts import ATTEMPTS
from tests.cheaters.glass.outcome import HONEST, answers, outcome

TABLE = Path(__file__).parents[2] / "docs" / "glass.md"

pytestmark = pytest.mark.skipif(launch.probe()[0] == "none", reason="nothing isolates here")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[Generation]:
    return answers(HONEST, tmp_path_factory.mktemp("honest"), isolate=False)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_behind_the_glass(name: str, tmp_path: Path, honest: list[Generation]) -> None:
    found = outcome(name, tmp_path, True, honest)
    assert found != "NOT NOTICED"
    told = dict(
        re.findall(r"^\| `(\w+)` \|(?:[^|]*\|){2} ([^|(]*?)(?: \([^|]*\))? \|$", TABLE.read_text(), re.M)
    )
    assert told[name] == found.partition(" (")[0]
