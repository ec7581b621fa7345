"""What used to run and store a wrong figure, or fall back in silence, is one clear error that names what to
change.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness.cli import app
from harness.engine import loader
from harness.engine.opening import open_engine
from harness.errors import UserError
from harness.model.device import pick_device
from harness.model.load import load_transformer, tensors
from harness.model.spec import CheckpointError
from tests.conftest import GOLDEN
from tests.helpers import CPU


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(done.exception, UserError), (done.exit_code, done.output[-300:], done.exception)
    return str(done.exception)


def copied(folder: Path, extra: dict[str, torch.Tensor], **config: Any) -> Path:
    """The golden Dream checkpoint with further weights and configuration."""
    folder.mkdir()
    save_file(dict(tensors(GOLDEN / "dream_tiny")) | extra, folder / "model.safetensors")
    read = json.loads((GOLDEN / "dream_tiny" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**read, **config}))
    return folder


def test_weights_that_the_family_does_not_have(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_norm.weight"
    folder = copied(tmp_path / "model", {name: torch.ones(16)})
    with pytest.raises(
        CheckpointError, match=rf"1 weight that a model of type Dream does not have, first {name}"
    ):
        load_transformer(folder, torch.float32, CPU)


def test_stored_tables_and_tied_heads_are_no_unknown_weights(tmp_path: Path) -> None:
    buffers = {
        "model.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    load_transformer(copied(tmp_path / "buffers", buffers), torch.float32, CPU)
    load_transformer(copied(tmp_path / "tied", {}, tie_word_embeddings=True), torch.float32, CPU)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(CheckpointError, match=rf"--device {name}: .*no CUDA device"):
            pick_device(name)
    assert pick_device("auto") == CPU
    with pytest.raises(CheckpointError, match="is no torch device"):
        pick_device("gpu0")


def test_a_device_that_holds_no_numbers_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("meta", "mps"):
        with pytest.raises(CheckpointError, match=rf"--device {name}: .*use cpu, cuda or cuda:N"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(CheckpointError, match=r"--device cuda:2: torch finds 2 CUDA devices, from cuda:0"):
        pick_device("cuda:2")


def test_an_adapter_whose_card_names_another_base(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "dream_lora_tiny", folder)
    tiny = str(GOLDEN / "dream_tiny")
    (folder / "card.json").write_text(json.dumps({"model": tiny, "model_hash": loader.model_hash(tiny)}))
    assert loader.load(tiny, adapter=str(folder)).adapter == str(folder)
    (folder / "card.json").write_text(json.dumps({"model": "another", "model_hash": "0" * 16}))
    loader._held.cache_clear()
    with pytest.raises(
        CheckpointError, match=r"was trained from another \(0000000000000000\).*change --adapter or --model"
    ):
        loader.load(tiny, adapter=str(folder))


def test_an_adapter_whose_configuration_names_another_known_model(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "dream_lora_tiny", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "Dream-org/Dream-v0-Base-7B"})
    )
    with pytest.raises(CheckpointError, match="was trained from Dream-org/Dream-v0-Base-7B, not from nano"):
        loader.load("nano", adapter=str(folder))


@pytest.mark.parametrize("command", ["run", "decode", "generate"])
def test_a_setting_of_a_method_that_is_not_chosen(command: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": [5]}\n')
    rest = {
        "run": ["--suite", "nano-gsm", "--limit", 1, "-o", tmp_path / "runs"],
        "decode": ["--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl"],
        "generate": ["a"],
    }[command]
    text = refused(command, *rest, "--method", "vanilla", "--set", "d2f.block_size=4")
    assert "--set d2f.block_size: d2f is not chosen" in text
    assert "vanilla" in text
    assert not (tmp_path / "runs").exists()


def test_a_setting_for_a_chosen_method_still_reaches_it() -> None:
    engine = open_engine(
        "d2f", "nano", {"d2f.block_size": "4", "vanilla.eps": "0.1"}, chosen=("d2f", "vanilla")
    )
    assert engine.generator.config.block_size == 4


def test_a_method_that_comes_twice_with_the_same_settings(tmp_path: Path) -> None:
    wishes = ["--method", "d2f", "--method", "d2f:skip_threshold=0.9"]
    text = refused("run", *wishes, "--suite", "nano-gsm", "--limit", 1, "-o", tmp_path / "runs")
    assert "--method d2f comes twice with the same settings" in text
    assert not (tmp_path / "runs").exists()


def test_a_canvas_beyond_the_context_leaves_no_folder(tmp_path: Path) -> None:
    arguments = [
        "run",
        "--method",
        "vanilla",
        "--suite",
        "nano-gsm",
        "--limit",
        2,
        "--set",
        "max_new_tokens=2048",
        "-o",
        tmp_path / "runs",
    ]
    text = refused(*arguments)
    assert "canvas of 2048" in text
    assert "context of 2048" in text
    assert "max_new_tokens" in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_decode_without_prompts(content: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    assert "holds no prompt" in refused(
        "decode", "--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl"
    )
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("prompt", ["", "  \n", "[R:4] [A:4]"])
def test_generate_without_a_prompt(prompt: str) -> None:
    assert "prompt is empty" in refused("generate", prompt)
