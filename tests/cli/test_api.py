"""``import dllm_bench``: the examples of docs/api.md, and folders of the package's names beside a script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dllm_bench
from harness.decoding import registry
from harness.decoding.decoder import RowDecoder
from harness.decoding.registry import MethodError
from harness.engine.isolation.finding import find_method
from harness.model import recognise
from harness.model.family import Family

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
SCRIPT = """
import sys
import reports
import dllm_bench
import methods
from dllm_bench.methods.base import RowDecoder
from dllm_bench.methods.vanilla import METHOD

assert methods.MINE == 1
assert "dllm_bench" not in reports.__name__ and not hasattr(reports, "load")
assert "harness" not in sys.modules
assert isinstance(METHOD, RowDecoder)
engine = dllm_bench.load("fast_dllm:block_length=8")
assert isinstance(engine.method.decoder, RowDecoder)
(answer,) = dllm_bench.decode(engine, ["2 + 3 = "], max_new_tokens=8)
assert answer.status == "ok" and answer.decoded.nfe > 0, answer.error
print("done")
"""


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests register goes with them."""
    monkeypatch.setattr(recognise, "_ADDED", {})
    for name in list(registry.ADDED):
        monkeypatch.delitem(registry.ADDED, name)


def test_a_script_keeps_its_own_folders(tmp_path: Path) -> None:
    """Whether they are imported before the package or after it."""
    for name in ("methods", "reports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = 1\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("done\n"), done.stderr


def test_both_names_are_one_module() -> None:
    import dllm_bench.harness.decoding.registry as again  # pyright: ignore[reportMissingImports]

    assert again is registry
    assert registry.__spec__ is not None
    assert registry.__spec__.name == "harness.decoding.registry"


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 5
    names: dict[str, Any] = {"__name__": "page"}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    assert names["first"].status == "ok"
    assert names["second"].decoded.rows == 2
    assert [one.run.plan.method for one in (names["vanilla"], names["fast"])] == ["vanilla", "fast_dllm"]
    assert names["verdict"].speedup.documents == 4
    assert names["mine"].run.audit.passed
    assert names["mine"].run.plan.method_source != "built-in"
    assert len(dllm_bench.run("vanilla", "nano-gsm", limit=4, output="runs")[0].samples) == 4


def test_register_takes_methods_and_families() -> None:
    class Mine(RowDecoder):
        name = "mine"

    dllm_bench.register(Mine())
    assert find_method("mine").source.startswith("sha256:")
    dllm_bench.register(Family("mine"))
    assert "mine" in recognise.family_names()
    with pytest.raises(MethodError, match="lacks name, Config, requires, decode"):
        dllm_bench.register(object())  # pyright: ignore[reportArgumentType]
