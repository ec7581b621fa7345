"""The `duo` decoder on a small uniform-state checkpoint: counts, ids, batching, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.decoding.backbone import Backbone
from harness.decoding.forward import Forward
from harness.engine.loader import load
from harness.measuring.clock import decode
from harness.model.load import load_transformer
from harness.model.recognise import read_spec
from harness.model.spec import CheckpointError
from methods.duo import decoder
from methods.duo.decoder import Config
from methods.duo.model import Denoiser, denoiser_spec, level_token, save_denoiser
from methods.duo.sampling import Tail, sample
from tests.conftest import GOLDEN
from tests.helpers import backbone as tiny
from tests.helpers import canvas

CPU = torch.device("cpu")
METHOD: Any = decoder.METHOD
DATA, LEVELS = 11, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uniform")
    save_denoiser(
        path, Denoiser(denoiser_spec(DATA, hidden=16, layers=1, heads=2, levels=LEVELS), seed=3), eos=0
    )
    return path


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone(load_transformer(folder, torch.float32, CPU), CPU, torch.float32)


@pytest.mark.parametrize("tail", ["greedy_code", "greedy_posterior", "ancestral"])
def test_steps_plus_one_forwards_and_clean_audit(backbone: Backbone, tail: Tail) -> None:
    for steps in (1, 5):
        (row,) = decode(backbone, METHOD, Config(steps=steps, tail=tail), [[0, 3, 4]], 9)
        assert row.nfe == steps + 1
        assert row.prompt == [0, 3, 4]
        assert all(0 <= token < DATA for token in row.output)
        assert row.step_map == [steps] * 9
        assert row.audit_passed, [check for check in row.checks if not check.passed]


def test_early_exit_cannot_cut_a_uniform_row_short(backbone: Backbone) -> None:
    (row,) = decode(backbone, METHOD, Config(steps=4), [[0]], 6, stop_rule="harness")
    assert (row.nfe, row.committed) == (5, 6)


def test_batches_do_not_change_answers(backbone: Backbone) -> None:
    prompts, seeds = [[0, 1], [0, 2, 3], [0]], [5, 6, 7]
    together = decode(backbone, METHOD, Config(steps=3, tail="ancestral"), prompts, 8, seeds=seeds)
    alone = [
        decode(backbone, METHOD, Config(steps=3, tail="ancestral"), [p], 8, seeds=[s])[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    assert [row.output for row in together] == [row.output for row in alone]


def test_decoder_and_plain_sampler_draw_the_same(folder: Path, backbone: Backbone) -> None:
    net = Denoiser(read_spec(folder))
    net.load_state_dict(backbone._model.state_dict())
    generator = torch.Generator().manual_seed(21)
    expected = sample(net, (1, 7), DATA, 4, "greedy_code", generator)[0].tolist()
    (row,) = decode(backbone, METHOD, Config(steps=4), [[0]], 7, seeds=[21])
    assert row.output == expected


def test_levels_cover_the_schedule() -> None:
    spec = denoiser_spec(DATA, levels=LEVELS)
    assert level_token(torch.tensor([0.0, 0.5, 1.0]), spec).tolist() == [DATA, DATA + 8, DATA + LEVELS - 1]
    assert spec.data_tokens == DATA
    assert not spec.shift


def test_only_noise_levels_may_stand_before_the_canvas(backbone: Backbone) -> None:
    page = canvas(backbone, [[0, 3]], 4)
    for level in (3, DATA - 1, DATA + LEVELS):
        with pytest.raises(ValueError, match="noise level"):
            backbone.forward(page, Forward((0, 6), [2], level=level))
    with pytest.raises(ValueError, match="feed must start at 0"):
        backbone.forward(page, Forward((1, 6), [2], level=DATA))
    low, high = (
        backbone.forward(page, Forward((0, 6), [2], level=level)) for level in (DATA, DATA + LEVELS - 1)
    )
    assert not torch.equal(low, high)
    assert page.ids[0, :2].tolist() == [0, 3]
    masked = tiny("dream_tiny")
    with pytest.raises(ValueError, match="this model has 0"):
        masked.forward(canvas(masked, [[5]], 4), Forward((0, 5), [1], level=6))


def test_wrong_kind_of_checkpoint_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no uniform-state model"):
        load(str(GOLDEN / "dream_tiny"), METHOD.requires)
    with pytest.raises(CheckpointError, match="no mask token"):
        load(str(folder), {"mask_token"})
    assert load(str(folder), METHOD.requires).spec.uniform_state
