"""Trainers on a stand-in for a GPU: two steps from answers to checkpoint, and the losses of the CPU.

Both compute in float32, where losses may differ by what another order of sums gives (a GPU's attention is
one fused call): one part in 10,000.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import Tokenizer
from torch import Tensor

from harness.engine import loader
from harness.model.device import pick_dtype
from harness.model.load import tensors
from harness.model.spec import ModelSpec
from methods.training import export, nano, options
from methods.training.data import corpus
from methods.training.loop.loop import LossAt
from methods.training.students import student as core
from methods.training.students import trainer
from methods.training.students.trainers import TRAINERS
from tests.card import CARD, Card

TINY = ModelSpec("qwen2", 1024, 32, 64, 1, 2, 1, 16, qkv_bias=True)
# torch warns where it believes the stand-in to be empty.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
CPU = torch.device("cpu")
ANSWERED = ("dcd", "cfd", "d3llm")
VALIDATED = ("d2f", "sdtt", "lockstep")
"""By a block-causal mode, one on the whole canvas, and on canvases in blocks; the others' go the same way."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer: Tokenizer = corpus.train_tokenizer(0, count=1000)
    export.save_model(folder, nano.new_model(TINY, 0), tokenizer, diffusion=True)
    return folder


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on both devices; one problem per validation, decoded in one way; PEFT, which leaves adapters
    beside those on "meta" where they are, moves them as it does on a GPU.
    """
    for module in (core, loader):
        monkeypatch.setattr(module, "pick_dtype", lambda *_: torch.float32)
    real = trainer.validate
    monkeypatch.setattr(
        trainer, "validate", lambda student, modes, count: real(student, modes, min(count, 1))
    )
    monkeypatch.setattr(trainer, "FULL", {"lockstep-N4": trainer.FULL["lockstep-N4"]})
    monkeypatch.setattr(BaseTunerLayer, "_move_adapter_to_device_of_base_layer", move_adapter)


def move_adapter(layer: Any, adapter: str, device: torch.device | None = None) -> None:
    weight = layer.get_base_layer().weight
    for name in layer.adapter_layer_names:
        if adapter in (held := getattr(layer, name, {})):
            held[adapter] = held[adapter].to(weight.device, weight.dtype)


@dataclass
class Trained:
    """``losses`` of all batches; ``figures`` of the validation while training."""

    losses: list[float]
    figures: dict[str, float]
    weights: dict[str, Tensor]


def trained(
    name: str, base: Path, folder: Path, device: torch.device, cut: bool = False, **given: Any
) -> Trained:
    """A training of two steps, on answers that lie in ``folder`` or are decoded first. ``cut``: the second
    step is another start's.
    """
    places = {"model": str(base), "output": folder / "out", "work": folder / "work", "device": device.type}
    short = {"steps": 2, "answers": 6 if name in ANSWERED else None, "precision": "no", "tokens": 256}
    chosen = options.preset(TRAINERS[name].options, name, "smoke", {**places, **short, **given})
    losses: list[float] = []

    def build(student: core.Student[Any]) -> LossAt:
        loss_at = TRAINERS[name].build(student)

        def noted(batch: int) -> Iterator[Tensor]:
            if cut and len(losses) == batch == 1:
                losses.append(0.0)
                raise Cut
            found, total = loss_at(batch), 0.0
            for part in [found] if isinstance(found, Tensor) else found:
                assert part.device.type == device.type
                total += float(part.detach())
                yield part
            losses.append(total)

        return noted

    one = replace(TRAINERS[name], build=build, modes=TRAINERS[name].modes[-1:])
    with Card() if device == CARD else nullcontext():
        if cut:
            with pytest.raises(Cut):
                one.train(chosen)
        output = one.train(chosen)
    (log,) = (folder / "work").glob("*/log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figures = {key: value for row in rows for key, value in row.items() if "/" in key}
    return Trained(
        losses, figures, dict(tensors(output, "model" if given.get("rank") == 0 else "adapter_model"))
    )


class Cut(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("name", TRAINERS)
def test_two_steps_on_the_card_have_the_losses_of_the_cpu(name: str, base: Path, tmp_path: Path) -> None:
    every = 2 if name in VALIDATED else 0
    card = trained(name, base, tmp_path / "card", CARD, validate_every=every)
    (tmp_path / "cpu/work").mkdir(parents=True)
    for answers in (tmp_path / "card/work").glob("answers-*"):
        shutil.copy(answers, tmp_path / "cpu/work")
    cpu = trained(name, base, tmp_path / "cpu", CPU, validate_every=every)
    assert len(card.losses) == 2
    assert card.losses == pytest.approx(cpu.losses, rel=TOLERANCE)
    assert {name.split("/")[0] for name in card.figures} == ({"gsm", "code"} if every else set())
    assert card.figures.keys() == cpu.figures.keys()
    assert all(value > 0 for name, value in card.figures.items() if name.endswith("/nfe"))


@pytest.mark.parametrize(
    ("name", "given"),
    [("d2f", {}), ("cfd", {"rank": 0, "muon_lr": 5e-3, "answers": 0})],
    ids=["adapter", "muon"],
)
def test_a_training_cut_on_the_card_ends_at_the_same_weights(
    name: str, given: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    whole = trained(name, base, tmp_path / "whole", CARD, **given)
    cut = trained(name, base, tmp_path / "cut", CARD, cut=True, **given)
    assert all(torch.equal(whole.weights[key], cut.weights[key]) for key in whole.weights)
    assert whole.losses[1] == cut.losses[-1]


def test_a_bfloat16_base_has_nearly_the_losses_of_float32(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU trains adapters on by default; bfloat16 keeps 8 bits, a loss is held to 6 of them."""
    cpu = trained("d2f", base, tmp_path / "cpu", CPU)
    monkeypatch.setattr(core, "pick_dtype", pick_dtype)
    card = trained("d2f", base, tmp_path / "card", CARD)
    assert card.losses != cpu.losses
    assert card.losses == pytest.approx(cpu.losses, rel=2**-6)


def test_a_model_that_cannot_be_validated_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "tokenizer_of", lambda *_: None)
    assert not trained("sdtt", base, tmp_path, CPU, validate_every=2).figures
    assert f"no validation: its problems are nano's, and {base} has another" in capsys.readouterr().out
