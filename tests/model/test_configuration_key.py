"""Weights alone are no model: another configuration around the same weights is another plan and another
table.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.engine.opening import open_engine
from harness.model.checkpoint import configuration_hash, model_hash
from harness.records.schema import Plan, find_runs, read_run
from harness.runs.plan import comparability, make_plan, run_id
from harness.runs.suite import Rendering
from tests.conftest import GOLDEN

RESULTS = Path(__file__).parents[2] / "results"


def copied(golden: str, folder: Path, file: str, **changes: Any) -> str:
    shutil.copytree(GOLDEN / golden, folder)
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, **changes}))
    return str(folder)


def plan_of(model: str) -> Plan:
    opened = open_engine("vanilla", model, lazy=True)
    plan = make_plan(
        opened.loaded, opened.method, opened.generator, suite="s", prompts=["p"], limit=None, canvas=8,
        blocks=(), batch_size=1, repeats=1, rendering=Rendering(),
    )  # fmt: skip
    return plan.model_copy(update={"model": "one name", "checkpoint": "one name"})


@pytest.mark.parametrize(
    "changes",
    [{"rope_theta": 12345.0}, {"num_attention_heads": 2, "num_key_value_heads": 1}, {"rms_norm_eps": 0.1}],
)
def test_one_file_of_weights_in_two_configurations(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = copied("dream_tiny", tmp_path / "one", "config.json")
    two = copied("dream_tiny", tmp_path / "two", "config.json", **changes)
    assert model_hash(one) == model_hash(two)
    assert configuration_hash(one) != configuration_hash(two)
    first, second = plan_of(one), plan_of(two)
    assert first.model_dump(exclude={"config_hash"}) == second.model_dump(exclude={"config_hash"})
    assert run_id(first) != run_id(second)
    keys = [comparability(plan.model_copy(update={"model": path, "checkpoint": path}))
            for plan, path in ((first, one), (second, two))]  # fmt: skip
    assert keys[0]["weights_hash"] == keys[1]["weights_hash"]
    assert keys[0]["config"] != keys[1]["config"]


def test_what_changes_no_answer_changes_no_hash(tmp_path: Path) -> None:
    one = copied("dream_tiny", tmp_path / "one", "config.json")
    two = copied("dream_tiny", tmp_path / "two", "config.json", architectures=["Other"], use_cache=False)
    assert configuration_hash(one) == configuration_hash(two)


def test_an_adapters_scale_counts(tmp_path: Path) -> None:
    base = copied("dream_tiny", tmp_path / "base", "config.json")
    one = copied("dream_lora_tiny", tmp_path / "one", "adapter_config.json")
    two = copied("dream_lora_tiny", tmp_path / "two", "adapter_config.json", lora_alpha=3)
    hashes = {configuration_hash(base), configuration_hash(base, one), configuration_hash(base, two)}
    assert len(hashes) == 3
    assert configuration_hash("nano", one) != configuration_hash("nano", two)


def test_shipped_models_are_named_by_their_names_and_stored_runs_keep_their_ids() -> None:
    assert [configuration_hash("nano"), configuration_hash("nano-ar")] == [None, None]
    assert configuration_hash("nano", "nano-d2f") is None
    for board in ("leaderboard", "decoders", "lockstep", "students"):
        run = read_run(next(find_runs(RESULTS / board)))
        assert run_id(run.plan) == run.run_id
        assert "config_hash" not in run.plan.model_dump()
        assert "config" not in comparability(run.plan)
