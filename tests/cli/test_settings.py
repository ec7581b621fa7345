"""Settings, methods and model names: what is accepted, and that every refusal names what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.decoding.registry import MethodError, load_method, method_names
from harness.decoding.settings import SettingError, build_config, describe, parse_pairs
from harness.engine.opening import Wish, settings_for
from harness.model.device import pick_dtype
from harness.model.load import resolve
from harness.model.spec import CheckpointError
from tests.helpers import CPU


def config(method: str, **settings: Any) -> Any:
    decoder = load_method(method).decoder
    return build_config(method, decoder.Config, settings)


def test_text_becomes_typed_values() -> None:
    built = config("fast_dllm", threshold="0.8", block_length="none", cache="dual", steps="16")
    assert (built.threshold, built.block_length, built.cache, built.steps) == (0.8, None, "dual", 16)


@pytest.mark.parametrize(
    ("method", "settings", "text"),
    [
        ("fast_dllm", {"treshold": "0.8"}, r"no setting 'treshold': did you mean threshold\?"),
        ("fast_dllm", {"threshold": "1.5"}, r"--set threshold=1.5: .*less than or equal to 1"),
        ("fast_dllm", {"cache": "both"}, r"--set cache=both: .*'none', 'prefix' or 'dual'"),
        ("vanilla", {"steps": "many"}, r"--set steps=many: .*valid integer"),
        ("d2f", {"block_size": "0"}, r"--set block_size=0: .*greater than 0"),
    ],
)
def test_bad_settings(method: str, settings: dict[str, str], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        config(method, **settings)


def test_pairs() -> None:
    assert parse_pairs(["a=1", "b = x=y "]) == {"a": "1", "b": "x=y"}
    with pytest.raises(SettingError, match="not key=value"):
        parse_pairs(["threshold"])


def test_shared_settings_reach_methods_that_have_them() -> None:
    methods = [load_method(name) for name in ("vanilla", "d2f")]
    known = {field for method in methods for field in method.decoder.Config.__dataclass_fields__}
    shared = {"block_size": "16", "vanilla.eps": "0.01", "temperature": "0.5"}
    chosen = [settings_for(Wish(method.name), method, "some/model", shared, known) for method in methods]
    assert chosen == [{"eps": "0.01", "temperature": "0.5"}, {"block_size": "16", "temperature": "0.5"}]
    with pytest.raises(SettingError, match="no chosen method has this setting"):
        settings_for(Wish("d2f"), methods[1], "some/model", {"nonsense": "1"}, known)


def test_model_defaults_come_first() -> None:
    method = load_method("d2f")
    assert settings_for(Wish("d2f"), method, "nano", {}, set())["block_size"] == 8
    assert (
        settings_for(Wish.parse("d2f:block_size=16"), method, "nano", {"block_size": "4"}, {"block_size"})[
            "block_size"
        ]
        == "16"
    )


def test_unknown_method_lists_the_known() -> None:
    with pytest.raises(
        MethodError, match=r"unknown method 'd2ff': did you mean d2f\? --method takes adablock, ar, "
    ):
        load_method("d2ff")
    with pytest.raises(MethodError, match="not found"):
        load_method("./missing.py")


def test_file_methods(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n")
    with pytest.raises(MethodError, match="defines no METHOD"):
        load_method(str(file))
    file.write_text("METHOD = object()\n")
    with pytest.raises(MethodError, match="lacks name, Config"):
        load_method(str(file))
    file.write_text("1 / 0\n")
    with pytest.raises(MethodError, match="ZeroDivisionError"):
        load_method(str(file))


def test_every_setting_is_explained() -> None:
    for name in method_names():
        for key, kind, _, meaning in describe(load_method(name).decoder.Config):
            assert meaning, f"{name}.{key} has no description"
            assert kind


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "nothing"])
def test_missing_checkpoint(name: str) -> None:
    with pytest.raises(CheckpointError, match="--model takes a folder"):
        resolve(name)


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="could not be fetched"):
        resolve("some-org/some-model")


def test_unknown_dtype() -> None:
    with pytest.raises(CheckpointError, match="--dtype"):
        pick_dtype("fp8", CPU)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_dominant_mask_logit_leaves_the_other_tokens_in_order(temperature: float) -> None:
    from methods.base import SamplingConfig, propose
    from tests.helpers import backbone, canvas

    model = backbone("dream_tiny")
    row = canvas(model, [[5]], 2).rows[0]
    logits = torch.zeros(1, 256)
    logits[0, 254], logits[0, 7] = 500.0, 60.0
    best = propose(logits, row, model.spec, SamplingConfig(temperature=temperature))
    assert best.ids.tolist() == [7]
    assert 0 < float(best.probability) < 1e-9
