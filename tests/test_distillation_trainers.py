"""The distillers end to end in miniature: adapters that load, exact resumption, presets, refusals."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor, nn
from typer.testing import CliRunner

from harness.model.load import Adapter, load_transformer
from harness.model.spec import ModelSpec
from methods.training import cfd, core, corpus, dcd, dimo, distill_cli, duo, export, nano, sdtt, student
from methods.training.rounds import AdapterRounds, Rounds, RoundSchedule

CPU = torch.device("cpu")
TINY = ModelSpec("qwen2", 768, 32, 64, 2, 2, 1, 16, qkv_bias=True)
METHODS: dict[str, tuple[Any, Callable[[Any], Path]]] = {
    "sdtt": (sdtt.SDTTOptions, sdtt.train_sdtt),
    "dcd": (dcd.DCDOptions, dcd.train_dcd),
    "cfd": (cfd.CFDOptions, cfd.train_cfd),
    "dimo": (dimo.DiMOOptions, dimo.train_dimo),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer: Tokenizer = corpus.train_tokenizer(0, count=1000)
    export.save_model(folder, nano.new_model(TINY, 0), tokenizer, diffusion=True)
    return folder


def smoke(name: str, base: Path, folder: Path) -> Any:
    return student.preset(METHODS[name][0], name, "smoke", base=base, output=folder / "out", work=folder / "work")


def weights(folder: Path) -> dict[str, Tensor]:
    return {f"{name}.{side}": value for name, pair in Adapter(folder).pairs.items() for side, value in pair.items()}


class Cut(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("name", list(METHODS))
def test_adapter_loads_and_a_cut_run_ends_at_the_same_weights(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, train = smoke(name, base, tmp_path / "whole"), METHODS[name][1]
    whole = weights(train(options))
    assert any(float(value.abs().max()) > 0 for key, value in whole.items() if key.endswith(".B"))
    model = load_transformer(base, torch.float32, CPU)
    Adapter(options.output).merge(model)
    card = json.loads((options.output / "card.json").read_text())
    assert card["settings"]["every"] == options.schedule.every
    again, real = smoke(name, base, tmp_path / "cut"), core.save_checkpoint

    def save_and_die(path: Path, model: nn.Module, optimisers: Any, step: int, seconds: float) -> None:
        real(path, model, optimisers, step, seconds)
        if step in (1, 3):
            raise Cut

    monkeypatch.setattr(core, "save_checkpoint", save_and_die)
    for _ in range(2):
        with pytest.raises(Cut):
            train(again)
    cut = weights(train(again))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize("change", [{"clock": "gaussian"}, {"shown": "anchor", "beta": 0.5}, {"direction": "forward", "shown": "none"}])
def test_consistency_variants_run(change: dict[str, Any], base: Path, tmp_path: Path) -> None:
    options = replace(smoke("dcd", base, tmp_path), schedule=RoundSchedule(0.25, 1, 2), **change)
    assert dcd.train_dcd(options).is_dir()
    assert bool(list(options.work.glob("integral-K768-*.pt"))) == (options.clock == "gaussian")


def test_generator_and_auxiliary_model_learn_apart(base: Path, tmp_path: Path) -> None:
    options = smoke("dimo", base, tmp_path)
    trio = dimo.Trio(student.Student(options, "dimo"), options)
    assert not {id(p) for p in trio.psi} & {id(p) for p in trio.rounds.student}
    loss = trio.loss(0)
    assert all(p.grad is None for p in trio.rounds.student)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trio.psi)
    before = [None if p.grad is None else p.grad.clone() for p in trio.psi]
    loss.backward()
    for parameter, gradient in zip(trio.psi, before, strict=True):
        assert gradient is None or torch.equal(parameter.grad, gradient)  # pyright: ignore[reportArgumentType]
    # At the start psi = phi, so the generator has nothing to learn yet.
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-6 for p in trio.rounds.student)


def test_duo_trains_and_its_checkpoints_decode(tmp_path: Path) -> None:
    options = student.preset(duo.DuoOptions, "duo", "smoke", output=tmp_path / "out", work=tmp_path / "work")
    folder = duo.train_duo(options)
    card = json.loads((folder / "card.json").read_text())
    assert [(row["steps"], row["tail"]) for row in card["quality"]["student"]] == [(n, tail) for n in (1, 2) for tail in duo.TAILS]
    for name in ("base", "student"):
        assert load_transformer(folder / name, torch.float32, CPU).spec.uniform_state
    whole = (folder / "student" / "model.safetensors").read_bytes()
    again = replace(options, output=tmp_path / "again")
    assert (duo.train_duo(again) / "student" / "model.safetensors").read_bytes() == whole


def test_adapter_rounds_live_like_whole_ones() -> None:
    torch.manual_seed(0)
    frozen, trained = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)
    model = nn.Sequential(frozen, trained)
    whole = Rounds(copy.deepcopy(trained), RoundSchedule(0.1, 2, 2), 0.9)
    parts = AdapterRounds(model, RoundSchedule(0.1, 2, 2), 0.9)
    for step in range(4):
        assert whole.begin(step) == parts.begin(step)
        for mine, theirs in zip(whole.triples(), parts.triples(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        with torch.no_grad():
            for parameter in (*whole.student.parameters(), *trained.parameters()):
                parameter.add_(step + 1.0)
    own = trained.weight.clone()
    with parts.teacher():
        assert torch.equal(trained.weight, next(whole.teacher.parameters()))
        assert not torch.is_grad_enabled()
    assert torch.equal(trained.weight, own)
    assert sorted(parts.state_dict()) == ["average_0", "average_1", "student.0", "student.1", "teacher_0", "teacher_1", "updates"]


@pytest.mark.parametrize("name", ["nano", "dream7b", "smoke"])
def test_presets_hold_known_settings(name: str, tmp_path: Path) -> None:
    kinds = {key: kind for key, (kind, _) in METHODS.items()}
    for method, kind in kinds.items():
        options = student.preset(kind, method, name, base=tmp_path, output=tmp_path, work=tmp_path, seed=None)
        assert options.schedule.steps > 0
        assert student.with_steps(options, 7).schedule.every == max(1, 7 // options.schedule.rounds)
    if name == "dream7b":
        published = student.preset(sdtt.SDTTOptions, "sdtt", name, base=tmp_path, output=tmp_path, work=tmp_path)
        assert published.schedule.first == pytest.approx((1 - 1e-5) / 1024)
        assert student.preset(dcd.DCDOptions, "dcd", name, base=tmp_path, output=tmp_path, work=tmp_path).schedule == RoundSchedule()


def test_refusals_name_what_to_change(base: Path, tmp_path: Path) -> None:
    places = {"base": base, "output": tmp_path, "work": tmp_path}
    with pytest.raises(student.TrainingError, match="change --preset"):
        student.preset(cfd.CFDOptions, "cfd", "large", **places)
    with pytest.raises(student.TrainingError, match="no section 'duo'"):
        student.preset(duo.DuoOptions, "duo", "dream7b", output=tmp_path, work=tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("cfd: {rte: 0.5}\n")
    with pytest.raises(student.TrainingError, match="unknown setting 'rte'"):
        student.preset(cfd.CFDOptions, "cfd", str(own), **places)
    data = tmp_path / "answers.jsonl"
    data.write_text('{"prompt_ids": [1, 2], "output_ids": [3, 4, 0]}\n{"prompt_ids": [1]}\n')
    with pytest.raises(student.TrainingError, match="line 2"):
        student.read_pool(data)
    data.write_text('{"prompt_ids": [1, 2], "output_ids": [3, 4, 0]}\n')
    assert student.read_pool(data).row(0)[0].tolist() == [1, 2, 3, 4, 0]
    data.write_text("")
    with pytest.raises(student.TrainingError, match="no answers"):
        student.read_pool(data)


def test_commands_run_and_explain_themselves(base: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    for command in distill_cli.COMMANDS:
        app.command()(command)
    runner = CliRunner()
    for command in distill_cli.COMMANDS:
        assert "Example" in runner.invoke(app, [command.__name__, "--help"]).output
    places = ["--output", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--preset", "smoke", "--steps", "2"]
    result = runner.invoke(app, ["cfd", "--base", str(base), *places])
    assert result.exit_code == 0, result.output
    assert "written to" in result.output
    assert (tmp_path / "out" / "adapter_config.json").exists()
    result = runner.invoke(app, ["duo", *places])
    assert result.exit_code == 0, result.output
    assert "student" in result.output
