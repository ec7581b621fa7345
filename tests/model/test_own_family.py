"""A family in one file outside the package: its names, ids and fields are used by load and by the commands,
and stored with a run.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from harness.cli import app
from harness.engine.generator import Request
from harness.engine.loader import load
from harness.engine.opening import Weights, open_engine
from harness.model import catalog, recognise
from harness.model.catalog import folder_of
from harness.model.checkpoint import spec_of
from harness.model.family import Family
from harness.model.spec import CheckpointError
from harness.records.schema import find_runs, read_run, read_samples
from suites.suite import load_suite
from tests.conftest import GOLDEN

MINE = r'''
"""Dream's layers under other names; the mask id and the blocks stand in the published code alone."""

from harness.model.family import Family

FAMILY = Family(
    name="mine",
    mask_id={mask},
    block_size=8,
    weights=(
        (r"net\.embed", "model.embed_tokens"),
        (r"net\.head", "lm_head"),
        (r"net\.norm", "model.norm"),
        (r"net\.(\d+)\.attn\.(\w)", r"model.layers.\1.self_attn.\2_proj"),
        (r"net\.(\d+)\.mlp\.(\w+)", r"model.layers.\1.mlp.\2_proj"),
        (r"net\.(\d+)\.norm1", r"model.layers.\1.input_layernorm"),
        (r"net\.(\d+)\.norm2", r"model.layers.\1.post_attention_layernorm"),
    ),
)
'''
NAMES = (
    (r"model\.embed_tokens", "net.embed"),
    (r"lm_head", "net.head"),
    (r"model\.norm", "net.norm"),
    (r"model\.layers\.(\d+)\.self_attn\.(\w)_proj", r"net.\1.attn.\2"),
    (r"model\.layers\.(\d+)\.mlp\.(\w+)_proj", r"net.\1.mlp.\2"),
    (r"model\.layers\.(\d+)\.input_layernorm", r"net.\1.norm1"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm", r"net.\1.norm2"),
)


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The families of this test alone."""
    mine: dict[str, Any] = {}
    monkeypatch.setattr(recognise, "_ADDED", mine)
    return mine


def renamed(source: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a Dream checkpoint whose weights have other names and whose configuration no mask; and the
    file of its family.
    """
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    for ours, theirs in NAMES:
        weights = {re.sub(rf"^{ours}(?=\.)", theirs, name): tensor for name, tensor in weights.items()}
    assert all(name.startswith("net.") for name in weights)
    save_file(weights, folder / "model.safetensors")
    for name in ("config.json", "generation_config.json"):
        told = json.loads((folder / name).read_text())
        mask = told.pop("mask_token_id", None)
        (folder / name).write_text(json.dumps({**told, "model_type": "Mine"}))
        if name == "config.json":
            (folder.parent / "mine.py").write_text(MINE.format(mask=mask))
    return folder, folder.parent / "mine.py"


def test_decode_takes_the_family(tmp_path: Path) -> None:
    """Same ids as the checkpoint it was made of, by the command."""
    folder, file = renamed(GOLDEN / "dream_tiny", tmp_path / "own")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": [3, 14, 15, 92]}\n')
    lines = []
    for model, more in ((GOLDEN / "dream_tiny", []), (folder, ["--family", str(file)])):
        output = tmp_path / f"{model.name}.jsonl"
        arguments = [
            "--prompts",
            prompts,
            "--output",
            output,
            "--model",
            model,
            "--set",
            "max_new_tokens=8",
            *more,
        ]
        assert (
            CliRunner().invoke(app, ["decode", *map(str, arguments)], catch_exceptions=False).exit_code == 0
        )
        lines.append(json.loads(output.read_text()))
    assert lines[0] == lines[1]
    assert len(lines[0]["output"]) == 8


def test_run_stores_where_the_family_comes_from(tmp_path: Path) -> None:
    """And answers as nano, which the checkpoint was made of."""
    folder, file = renamed(Path(folder_of("nano")), tmp_path / "own")
    method = "vanilla:tokens_per_step=16,max_new_tokens=48"
    arguments = [
        "--suite",
        "nano-gsm",
        "--limit",
        "1",
        "--method",
        method,
        "--family",
        str(file),
        "-o",
        str(tmp_path / "runs"),
    ]
    assert (
        CliRunner().invoke(app, ["run", "--model", str(folder), *arguments], catch_exceptions=False).exit_code
        == 0
    )
    (run,) = find_runs(tmp_path / "runs")
    (sample,) = read_samples(run)
    suite = load_suite("nano-gsm")
    _, doc = next(iter(suite.docs(1)))
    (plain,) = next(open_engine(method, "nano").generator.run([Request(suite.prompt(doc), 48)], 1))
    assert (sample.text, sample.nfe) == (plain.text, 3)
    assert str(read_run(run).plan.family_source).startswith("sha256:")


def test_plans_of_built_in_families_do_not_name_it() -> None:
    """So that the ids of runs made before there were others stay."""
    plan = read_run(next(iter(find_runs(GOLDEN.parent.parent / "results" / "leaderboard")))).plan
    assert {"family_source", "overrides", "stop_strings"}.isdisjoint(plan.model_dump())
    assert plan.model_copy(update={"family_source": "sha256:1"}).model_dump()["family_source"] == "sha256:1"


def test_families_in_this_process_are_asked_first(added: dict[str, Any]) -> None:
    recognise.register_family(Family("near_dream", model_types=("dream",), shift=False))
    assert load(str(GOLDEN / "dream_tiny")).spec.family == "near_dream"
    assert not load(str(GOLDEN / "dream_tiny")).spec.shift
    added.clear()
    assert load(str(GOLDEN / "dream_tiny")).spec.shift


def test_a_mixture_of_experts_is_refused_whoever_claims_it() -> None:
    family = recognise.register_family(Family("greedy", model_types=("llada", "llada2_moe")))
    with pytest.raises(CheckpointError, match="mixture of 8 experts"):
        recognise.read_spec(GOLDEN / "lladamoe_tiny")
    with pytest.raises(CheckpointError, match="mixture of 8 experts"):
        recognise.read_spec(GOLDEN / "lladamoe_tiny", family)


def test_one_installed_family_claims_each_golden_checkpoint() -> None:
    """Efficient-DLM says qwen3."""
    families = [recognise.open_family(name) for name in recognise.family_names()]
    assert len(families) >= 11
    configurations = [json.loads(path.read_text()) for path in GOLDEN.glob("*_tiny/config.json")]
    dense = [raw for raw in configurations if not raw.get("num_experts")]
    assert len(dense) >= 8
    for raw in dense:
        assert len([family.name for family in families if family.claims(raw)]) == 1, raw["model_type"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.py", None, "family file .* not found: --family takes a Python file"),
        ("mine", None, "--family .*mine is no Python file: a known one is chosen by config.json"),
        ("empty.py", "", "defines no FAMILY"),
        ("other.py", "FAMILY = 3", "is no Family"),
        ("broken.py", "import no_such_module", "could not be imported: ModuleNotFoundError"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        Weights("nano", family=str(tmp_path / name))


LISTED = """
listed:
  path: own
  family: mine.py
  shift: false
  mask_id: 200
  block_size: 4
  attention: block_causal
  end_ids: [7, 9]
"""


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A list of models of one's own."""
    file = tmp_path / "models.yaml"
    monkeypatch.setenv("BENCH_MODELS", str(file))
    catalog.catalog.cache_clear()
    yield file
    catalog.catalog.cache_clear()


def test_a_list_of_models_overrides_fields(tmp_path: Path, listed: Path) -> None:
    folder, _ = renamed(GOLDEN / "dream_tiny", tmp_path / "own")
    listed.write_text(LISTED)
    spec = spec_of("listed")
    assert (spec.family, spec.shift, spec.mask_id, spec.block_size, spec.attention) == (
        "mine",
        False,
        200,
        4,
        "block_causal",
    )
    assert spec.eos_ids == (7, 9)
    loaded = load("listed", {"mask_token", "blocks"})
    assert loaded.spec == spec
    assert loaded.overrides["mask_id"] == 200
    assert str(loaded.family_source).startswith("sha256:")
    assert recognise.read_spec(folder).mask_id == 254
    assert "nano" in catalog.catalog()


def test_a_broken_list_of_models_is_named(listed: Path) -> None:
    listed.write_text("listed: {nonsense: 1}")
    with pytest.raises(CheckpointError, match=r"BENCH_MODELS=.* cannot be read as a list of models"):
        catalog.lookup("listed")
