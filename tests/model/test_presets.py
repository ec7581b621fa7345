"""--preset published: every value is a setting that its method has, flags win, screen and record say what was
taken, gaps are named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from harness.cli import app
from harness.cli.cells import Asked, Prompting, plan_cells
from harness.decoding.registry import load_method
from harness.decoding.settings import build_config, settings_of
from harness.engine.opening import Weights
from harness.model import presets
from harness.model.catalog import catalog
from harness.model.presets import Group, PresetError, groups, preset
from harness.model.recognise import read_spec
from harness.runs.cell import Cell, Options
from suites.suite import list_suites
from tests.conftest import GOLDEN

DREAM, LLADA = "Dream-org/Dream-v0-Base-7B", "GSAI-ML/LLaDA-8B-Instruct"
TINY = [
    {
        "by": "first", "source": "a paper", "models": ["nano"], "method": "fast_dllm", "chat": "one_turn",
        "note": "no cache there", "settings": {"max_new_tokens": 32, "block_length": 16, "threshold": 0.8},
        "suites": {"nano-gsm": {"num_fewshot": 2, "settings": {"threshold": 0.7}}},
    },
    {
        "by": "second", "source": "a script", "models": ["nano"], "method": "fast_dllm", "chat": "none",
        "settings": {"max_new_tokens": 16, "block_length": 8}, "suites": {"nano-gsm": {}, "nano-code": {}},
    },
]  # fmt: skip


def all_values() -> list[tuple[Group, str]]:
    return [(group, suite) for group in groups() for suite in group.suites]


@pytest.mark.parametrize(
    ("group", "suite"),
    all_values(),
    ids=lambda part: part if isinstance(part, str) else f"{part.by}-{part.method}",
)
def test_every_value_is_a_setting_for_a_known_model_and_suite(group: Group, suite: str) -> None:
    assert suite in list_suites()
    assert set(group.models) <= set(catalog())
    decoder = load_method(group.method).decoder
    for model in group.models:
        values = preset(f"published:{group.by}", model, group.method, suite)
        config = build_config(decoder.name, decoder.Config, values.settings)
        assert config.max_new_tokens
        assert values.source
        spec = read_spec(GOLDEN / ("llada_tiny" if "LLaDA" in model else "dream_tiny"))
        if (check := getattr(decoder, "check", None)) is not None:
            check(spec, config, config.max_new_tokens)


PRINTED: list[tuple[str, str, str, dict[str, Any]]] = [
    (
        DREAM,
        "vanilla",
        "humaneval",
        {"max_new_tokens": 512, "steps": 512, "temperature": 0.2, "top_p": 0.95, "alg": "entropy"},
    ),
    (
        DREAM,
        "d2f",
        "mbpp",
        {"block_size": 48, "max_new_tokens": 256, "block_add_threshold": 0.1, "num_fewshot": 3},
    ),
    (
        DREAM,
        "d2f",
        "humaneval",
        {"block_size": 32, "block_add_threshold": 0.9, "skip_threshold": 0.95, "chat": "none"},
    ),
    (
        DREAM,
        "fast_dllm",
        "gsm8k",
        {"cache": "prefix", "threshold": 0.9, "block_length": 32, "num_fewshot": 5},
    ),
    (
        LLADA,
        "d2f",
        "gsm8k",
        {"block_size": 64, "max_new_tokens": 512, "block_add_threshold": 0.7, "chat": "turns"},
    ),
    (LLADA, "vanilla", "gsm8k", {"max_new_tokens": 256, "block_length": 8}),
    (
        "Dream-org/Dream-v0-Instruct-7B",
        "lopa",
        "minerva_math",
        {"block_size": 16, "max_new_tokens": 512, "num_fewshot": 4},
    ),
    (
        "apple/DiffuCoder-7B-Instruct",
        "lopa",
        "mbpp_plus",
        {"skip_threshold": 0.9, "block_add_threshold": 0.3},
    ),
    (
        "d3LLM/d3LLM_LLaDA",
        "multi_block",
        "minerva_math",
        {"entropy_threshold": 0.5, "decoded_token_threshold": 0.95},
    ),
]


@pytest.mark.parametrize(("model", "method", "suite", "values"), PRINTED, ids=lambda part: str(part)[:30])
def test_values_are_those_of_the_scripts(model: str, method: str, suite: str, values: dict[str, Any]) -> None:
    found = preset("published", model, method, suite).values()
    assert {key: found.get(key) for key in values} == values


def test_what_there_is_is_named_where_there_is_nothing() -> None:
    with pytest.raises(
        PresetError,
        match=r"no values for .*Base-7B with d2f on gsm8k; .*vanilla on .*gsm8k_cot.*d2f on gsm8k_cot, mbpp",
    ):
        preset("published", DREAM, "d2f", "gsm8k")
    with pytest.raises(
        PresetError,
        match=r"for nano with vanilla on nano-gsm; it has some for Dream-org/Dream-v0-Base-7B, .*LLaDA",
    ):
        preset("published", "nano", "vanilla", "nano-gsm")
    with pytest.raises(PresetError, match=r"published:PROJECT with one of dream, .*d2f"):
        preset("printed", DREAM, "d2f", "mbpp")
    done = CliRunner().invoke(
        app, ["run", "--preset", "published", "--method", "vanilla", "--suite", "nano-gsm"]
    )
    assert isinstance(done.exception, PresetError)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tuple(TypeAdapter(list[Group]).validate_python(TINY))
    monkeypatch.setattr(presets, "groups", lambda: known)


def planned(
    root: Path,
    said: list[str],
    name: str,
    prompting: Prompting | None = None,
    method: str = "fast_dllm",
    *pairs: str,
) -> Cell:
    asked = Asked(
        [method], ["nano-gsm"], list(pairs), Weights("nano"), prompting=prompting or Prompting(), preset=name
    )
    (cell,) = plan_cells(asked, Options(root, limit=1), said.append)
    cell.folder.close()
    return cell


@pytest.mark.usefixtures("tiny")
def test_the_run_takes_the_values_says_so_and_keeps_them(tmp_path: Path) -> None:
    said: list[str] = []
    cell = planned(tmp_path, said, "published")
    settings, run = settings_of(cell.generator.config), cell.folder.run
    assert (settings["threshold"], settings["block_length"], cell.canvas) == (0.7, 16, 32)
    assert (run.plan.num_fewshot, run.plan.chat_template, run.plan.max_new_tokens) == (2, True, 32)
    assert cell.items[0].prompt.count("<|im_start|>user") == 1, "one turn"
    assert said == [
        "preset published: fast_dllm on nano-gsm: max_new_tokens=32, block_length=16, threshold=0.7, "
        "num_fewshot=2, chat=one_turn; "
        "from a paper; note: no cache there"
    ]
    values = {
        "max_new_tokens": 32,
        "block_length": 16,
        "threshold": 0.7,
        "num_fewshot": 2,
        "chat": "one_turn",
    }
    about = {"name": "published", "project": "first", "source": "a paper", "note": "no cache there"}
    assert run.preset == {**about, "values": values, "replaced": {}}


@pytest.mark.usefixtures("tiny")
def test_explicit_flags_win_and_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    flags = Prompting(num_fewshot=1, chat=False)
    cell = planned(
        tmp_path, said, "published", flags, "fast_dllm:block_length=8", "threshold=0.95", "max_new_tokens=48"
    )
    settings = settings_of(cell.generator.config)
    assert (settings["threshold"], settings["block_length"], cell.canvas) == (0.95, 8, 48)
    assert "<|im_start|>" not in cell.items[0].prompt
    replaced = {"max_new_tokens": 48, "block_length": 8, "threshold": 0.95, "num_fewshot": 1, "chat": "none"}
    assert (cell.folder.run.preset or {})["replaced"] == replaced
    assert "by flags: max_new_tokens=48, block_length=8, threshold=0.95, num_fewshot=1, chat=none" in said[0]


@pytest.mark.usefixtures("tiny")
def test_one_project_alone(tmp_path: Path) -> None:
    cell = planned(tmp_path, [], "published:second")
    assert (cell.canvas, cell.folder.run.plan.chat_template, cell.folder.run.plan.num_fewshot) == (
        16,
        False,
        None,
    )
