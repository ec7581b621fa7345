"""The distillers end to end in miniature: adapters that load, exact resumption, presets, refusals."""

from __future__ import annotations

import copy
import json
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor, nn
from typer.testing import CliRunner

from harness.decoding.settings import SettingError
from harness.engine.loader import load
from harness.model.adapter import Adapter
from harness.model.load import load_transformer, weights_hash
from harness.model.spec import CheckpointError, ModelSpec
from harness.runs.wandb_log import WandbError
from methods.training import export, nano, options
from methods.training.cli import distill as distill_cli
from methods.training.data import corpus
from methods.training.duo import recipe as duo
from methods.training.loop import loop as core
from methods.training.loop.rounds import AdapterRounds, Rounds, RoundSchedule
from methods.training.students import dimo, student
from methods.training.students.trainers import TRAINERS
from tests.commands import started
from tests.helpers import wait_until

CPU = torch.device("cpu")
TINY = ModelSpec("qwen2", 1024, 32, 64, 2, 2, 1, 16, qkv_bias=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer: Tokenizer = corpus.train_tokenizer(0, count=1000)
    export.save_model(folder, nano.new_model(TINY, 0), tokenizer, diffusion=True)
    return folder


def smoke(name: str, base: Path, folder: Path, **given: Any) -> Any:
    places = {"model": str(base), "output": folder / "out", "work": folder / "work"}
    return options.preset(
        TRAINERS[name].options, name, "smoke", {**places, "answers": 6 if name in ANSWERED else None, **given}
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        f"{name}.{side}": value
        for name, pair in Adapter(folder).pairs.items()
        for side, value in pair.items()
    }


DISTILLERS = ("d2f", "sdtt", "dcd", "cfd", "d3llm", "dimo")
ANSWERED = ("dcd", "cfd", "d3llm")


class Cut(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("name", DISTILLERS)
def test_adapter_loads_and_a_run_cut_three_times_ends_at_the_same_weights(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, train = smoke(name, base, tmp_path / "whole", accumulate=2, dropout=0.1), TRAINERS[name].train
    whole = weights(train(chosen))
    assert any(float(value.abs().max()) > 0 for key, value in whole.items() if key.endswith(".B"))
    model = load_transformer(base, torch.float32, CPU)
    Adapter(chosen.output).merge(model)
    card = json.loads((chosen.output / "card.json").read_text())
    assert card["settings"]["every"] == chosen.every
    assert card["data"]["rows"] > 0
    again, real = smoke(name, base, tmp_path / "cut", accumulate=2, dropout=0.1), core.save_checkpoint

    def save_and_die(
        path: Path, model: nn.Module, optimisers: Any, step: int, seconds: float, ranks: Any
    ) -> None:
        real(path, model, optimisers, step, seconds, ranks)
        if step < 4:
            raise Cut

    monkeypatch.setattr(core, "save_checkpoint", save_and_die)
    for _ in range(3):
        with pytest.raises(Cut):
            train(again)
    cut = weights(train(again))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_all_weights_by_muon_cut_once_end_at_the_same_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        "rank": 0,
        "muon_lr": 5e-3,
        "every": 4,
        "complement": False,
        "rate": 0.7,
        "rate_to": 1.0,
    }
    whole = TRAINERS["cfd"].train(smoke("cfd", base, tmp_path / "whole", **given))
    again, real = smoke("cfd", base, tmp_path / "cut", **given), core.save_checkpoint

    def save_and_die(
        path: Path, model: nn.Module, optimisers: Any, step: int, seconds: float, ranks: Any
    ) -> None:
        real(path, model, optimisers, step, seconds, ranks)
        assert [type(one).__name__ for one in optimisers] == ["Muon", "AdamW"]
        if step < 3:
            raise Cut

    monkeypatch.setattr(core, "save_checkpoint", save_and_die)
    with pytest.raises(Cut):
        TRAINERS["cfd"].train(again)
    monkeypatch.setattr(core, "save_checkpoint", real)
    cut = TRAINERS["cfd"].train(again)
    before, after, resumed = (
        load_transformer(folder, torch.float32, CPU).state_dict() for folder in (base, whole, cut)
    )
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("q_proj" in name for name in moved)
    assert any("norm" in name or "embed" in name for name in moved)
    assert all(torch.equal(after[name], resumed[name]) for name in after)
    with pytest.raises(SettingError, match=r"muon_lr trains whole matrices: --set rank=0, .*method cfd"):
        smoke("cfd", base, tmp_path, muon_lr=5e-3)


def test_a_student_killed_three_times_ends_at_the_same_weights(base: Path, tmp_path: Path) -> None:
    whole = weights(TRAINERS["sdtt"].train(smoke("sdtt", base, tmp_path / "whole", every=20)))
    cut = smoke("sdtt", base, tmp_path / "cut", every=20)
    places = ["--model", base, "--output", cut.output, "--work", cut.work]
    settings = ["--preset", "smoke", "--set", "every=20"]

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cut.work.glob("*/checkpoint.pt")}

    for _ in range(3):
        before = written()
        process = started("train", "sdtt", *places, *settings)
        wait_until(lambda before=before: written() != before, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed = weights(TRAINERS["sdtt"].train(cut))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    logs = [
        [json.loads(line) for line in next(folder.glob("work/*/log.jsonl")).read_text().splitlines()]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert all(row.pop("tokens_per_s") > 0 for log in logs for row in log if "loss" in row)
    assert logs[0] == logs[1]


def test_another_setting_does_not_continue_an_old_run(base: Path, tmp_path: Path) -> None:
    first, other = (smoke("sdtt", base, tmp_path, lr=rate) for rate in (1e-3, 1e-4))
    for chosen in (first, other, first):
        TRAINERS["sdtt"].train(chosen)
    assert len(list(first.work.glob("sdtt-*"))) == 2


def test_losses_go_to_wandb_offline_or_the_missing_package_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    chosen = smoke("sdtt", base, tmp_path, wandb=True)
    if find_spec("wandb") is None:
        with pytest.raises(WandbError, match="pip install"):
            TRAINERS["sdtt"].train(chosen)
        return
    TRAINERS["sdtt"].train(chosen)
    assert list(tmp_path.rglob("*.wandb"))


def test_all_weights_of_a_small_model_can_be_trained(base: Path, tmp_path: Path) -> None:
    chosen = smoke("sdtt", base, tmp_path, rank=0)
    folder = TRAINERS["sdtt"].train(chosen)
    before, after = (load_transformer(path, torch.float32, CPU) for path in (base, folder))
    changed = [
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    ]
    assert "model.layers.0.mlp.up_proj.weight" in changed
    assert (folder / "tokenizer.json").exists()
    ran = load(str(base), adapter=str(folder), device="cpu")
    assert torch.equal(ran.backbone._model.get_parameter(changed[0]), after.get_parameter(changed[0]))
    assert (ran.weights_hash, ran.adapter_hash, ran.merged) == (
        weights_hash(base),
        weights_hash(folder),
        None,
    )
    (stranger := tmp_path / "stranger").mkdir()
    for file in folder.iterdir():
        (stranger / file.name).write_bytes(file.read_bytes())
    card = json.loads((folder / "card.json").read_text())
    (stranger / "card.json").write_text(json.dumps({**card, "model_hash": "0" * 16}))
    with pytest.raises(
        CheckpointError, match=r"was trained from .* \(0{16}\), not from .*: change --adapter or --model"
    ):
        load(str(base), adapter=str(stranger), device="cpu")
    (stranger / "card.json").unlink()
    with pytest.raises(CheckpointError, match="pass it as --model instead of --adapter"):
        load(str(base), adapter=str(stranger), device="cpu")
    with pytest.raises(options.TrainingError, match="needs an adapter"):
        TRAINERS["d2f"].train(smoke("d2f", base, tmp_path, rank=0))


@pytest.mark.parametrize(
    "change",
    [{"clock": "gaussian"}, {"shown": "anchor", "beta": 0.5}, {"direction": "forward", "shown": "none"}],
)
def test_consistency_variants_run(change: dict[str, Any], base: Path, tmp_path: Path) -> None:
    chosen = smoke("dcd", base, tmp_path, every=1, answers=0, pool_items=100, **change)
    assert TRAINERS["dcd"].train(chosen).is_dir()
    assert bool(list(chosen.work.glob("integral-K1024-*.pt"))) == (chosen.clock == "gaussian")


def test_generator_and_auxiliary_model_learn_apart(base: Path, tmp_path: Path) -> None:
    trio = dimo.Trio(student.Student(smoke("dimo", base, tmp_path), "dimo"))
    generator = trio.student.rounds.student
    assert not {id(p) for p in trio.psi} & {id(p) for p in generator}
    loss = trio.loss(0)
    assert all(p.grad is None for p in generator)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trio.psi)
    before = [None if p.grad is None else p.grad.clone() for p in trio.psi]
    loss.backward()
    for parameter, gradient in zip(trio.psi, before, strict=True):
        assert gradient is None or torch.equal(parameter.grad, gradient)  # pyright: ignore[reportArgumentType]
    # At the start psi = phi, so the generator has nothing to learn yet.
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-6 for p in generator)


def test_duo_trains_and_its_checkpoints_decode(tmp_path: Path) -> None:
    chosen = options.preset(
        duo.DuoOptions, "duo", "smoke", {"output": tmp_path / "out", "work": tmp_path / "work"}
    )
    folder = duo.train_duo(chosen)
    card = json.loads((folder / "card.json").read_text())
    assert [(row["steps"], row["tail"]) for row in card["quality"]["student"]] == [
        (n, tail) for n in (1, 2) for tail in duo.TAILS
    ]
    for name in ("base", "student"):
        assert load_transformer(folder / name, torch.float32, CPU).spec.uniform_state
    whole = (folder / "student" / "model.safetensors").read_bytes()
    again = replace(chosen, output=tmp_path / "again")
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
    assert sorted(parts.state_dict()) == [
        "average_0",
        "average_1",
        "student.0",
        "student.1",
        "teacher_0",
        "teacher_1",
        "updates",
    ]


@pytest.mark.parametrize("name", ["nano", "dream7b", "smoke"])
@pytest.mark.parametrize("method", DISTILLERS)
def test_presets_hold_known_settings(name: str, method: str, tmp_path: Path) -> None:
    places = {"output": tmp_path, "work": tmp_path, "seed": None}
    chosen = options.preset(TRAINERS[method].options, method, name, places)
    assert chosen.schedule.steps > 0
    assert (
        options.preset(TRAINERS[method].options, method, name, {**places, "steps": 14}).every
        == 14 // chosen.rounds
    )


def test_presets_of_7b_are_the_papers(tmp_path: Path) -> None:
    places = {"output": tmp_path, "work": tmp_path}
    found = {
        name: options.preset(trainer.options, name, "dream7b", places)
        for name, trainer in TRAINERS.items()
        if name in DISTILLERS
    }
    assert [
        found["sdtt"].dt(found["sdtt"].accumulate * step) * 1024 for step in (0, 9_999, 10_000, 69_999)
    ] == pytest.approx([1, 1, 2, 64], rel=1e-4)
    assert (found["dcd"].schedule.dt(0), found["dcd"].schedule.dt(49_999)) == (1 / 512, 1 / 32)
    assert (found["cfd"].rank, found["cfd"].lr, found["cfd"].tokens * found["cfd"].accumulate) == (
        32,
        2e-5,
        64 * 512,
    )
    assert (found["d3llm"].rank, found["d3llm"].widths) == (256, (16, 24, 32))
    assert (found["d2f"].lr, found["d2f"].block_size, found["d2f"].dropout, found["d2f"].accumulate) == (
        5e-6,
        16,
        0.1,
        5,
    )


def test_wrong_presets_and_settings_are_refused(tmp_path: Path) -> None:
    kind, places = TRAINERS["cfd"].options, {"output": tmp_path, "work": tmp_path}
    with pytest.raises(options.TrainingError, match="change --preset"):
        options.preset(kind, "cfd", "large", places)
    with pytest.raises(options.TrainingError, match="no section 'duo'"):
        options.preset(duo.DuoOptions, "duo", "dream7b", places)
    own = tmp_path / "own.yaml"
    own.write_text("cfd: {rte: 0.5}\n")
    with pytest.raises(SettingError, match="did you mean rate"):
        options.preset(kind, "cfd", str(own), places)
    with pytest.raises(SettingError, match="--set rank=many"):
        options.preset(kind, "cfd", "nano", {**places, "rank": "many"})


def test_commands_run_and_explain_themselves(base: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    distill_cli.mount(app)
    runner = CliRunner()
    for name in (*DISTILLERS, "duo"):
        assert "Example" in runner.invoke(app, [name, "--help"]).output
    places = [
        "--output",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
        "--preset",
        "smoke",
        "--steps",
        "2",
    ]
    result = runner.invoke(app, ["cfd", "--model", str(base), *places, "--set", "answers=4"])
    assert result.exit_code == 0, result.output
    assert "memory, estimated" in result.output
    assert "written to" in result.output
    assert (tmp_path / "out" / "adapter_config.json").exists()
    result = runner.invoke(app, ["duo", *places])
    assert result.exit_code == 0, result.output
    assert "student" in result.output
