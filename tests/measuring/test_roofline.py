"""Roofline: costs of real models, bounds by hand, batches that share a pass, the cache of measured rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.decoding.backbone import Backbone
from harness.decoding.registry import load_method
from harness.engine.loader import load
from harness.measuring.audit import audit_run
from harness.measuring.clock import decode
from harness.measuring.roofline import (
    Hardware,
    ModelCost,
    Roofline,
    cache_path,
    hardware,
    model_cost,
    passes,
    roof_share,
    roofline_for,
    settled_share,
)
from harness.model.recognise import spec_of_config
from harness.model.transformer import Transformer
from harness.records.schema import Run, Sample
from reports.projection import DEVICES, MODELS
from tests.conftest import GOLDEN
from tests.synthetic_runs import Fake, fake_run, fake_samples

DREAM = {
    "model_type": "Dream", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "mask_token_id": 151666,
    "eos_token_id": 151643,
}  # fmt: skip
LLADA = {
    "model_type": "llada", "vocab_size": 126464, "d_model": 4096, "mlp_hidden_size": 12288, "n_layers": 32,
    "n_heads": 32, "n_kv_heads": 32, "mask_token_id": 126336, "eos_token_id": 126081,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "gigabytes", "kv"),
    [(DREAM, "dream-7b", 14.14, 57_344), (LLADA, "llada-8b", 15.00, 524_288)],
)
def test_costs_of_the_released_models(
    config: dict[str, object], name: str, gigabytes: float, kv: int
) -> None:
    with torch.device("meta"):
        model = Transformer(spec_of_config(config))
    cost = model_cost(Backbone(model, torch.device("meta"), torch.bfloat16))
    assert cost.weight_bytes / 1e9 == pytest.approx(gigabytes, abs=0.005)
    assert cost.kv_bytes == kv
    table = MODELS[name]
    assert table.weight_bytes == pytest.approx(cost.weight_bytes, rel=1e-4)
    assert table.position_flops == pytest.approx(cost.position_flops, rel=1e-4)
    assert (table.kv_bytes, table.pair_flops) == (cost.kv_bytes, cost.pair_flops)


@pytest.mark.parametrize(
    ("device", "dream", "llada"), [("h100", 237, 223), ("a100", 144, 136), ("h200", 339, 320)]
)
def test_forwards_per_second_of_the_protocol(device: str, dream: int, llada: int) -> None:
    rates = [Roofline(DEVICES[device], MODELS[model]).roof_tps(1.0) for model in ("dream-7b", "llada-8b")]
    assert rates == [pytest.approx(dream, abs=0.6), pytest.approx(llada, abs=0.6)]


@pytest.mark.parametrize(("device", "low", "high"), [("h100", 290, 330), ("a100", 150, 180)])
def test_positions_that_cost_as_much_as_one(device: str, low: int, high: int) -> None:
    roof = Roofline(DEVICES[device], MODELS["dream-7b"])
    free = next(n for n in range(1, 1000) if roof.seconds([(n, 0)]) > roof.seconds([(1, 0)]))
    assert low < free < high


ROOF = Roofline(
    Hardware("toy", bandwidth=100.0, flops=1000.0),
    ModelCost(weight_bytes=200.0, kv_bytes=10.0, position_flops=50.0, pair_flops=1.0),
)


def test_seconds_by_hand() -> None:
    assert ROOF.seconds([(1, 0)]) == 2.0
    assert ROOF.seconds([(1, 5)]) == 2.5
    assert ROOF.seconds([(100, 0)]) == 100 * (50 + 100) / 1000
    assert ROOF.seconds([(1, 5), (1, 5)]) == 3.0, "weights are read once for all rows"
    assert ROOF.roof_tps(3.0, positions=1, cached=5) == 3.0 / 2.5
    assert Roofline.from_record(json.loads(json.dumps(ROOF.record()))) == ROOF


def sample(order: int, forwards: list[tuple[int, int, int]], time_s: float | None) -> Sample:
    blank = fake_samples(Fake(documents=1))[0]
    return blank.model_copy(
        update={"doc_id": order, "order": order, "batch": None, "forwards": forwards, "time_s": time_s}
    )


def test_rows_of_a_batch_share_their_passes() -> None:
    rows = [sample(2, [(4, 0, 0)], 1.0), sample(0, [(3, 0, 0), (1, 3, 0)], 1.0), sample(1, [(5, 0, 0)], 1.0)]
    assert passes(rows, 2) == [[(3, 0), (5, 0)], [(1, 3)], [(4, 0)]]
    assert passes(rows, 1) == [[(3, 0)], [(1, 3)], [(5, 0)], [(4, 0)]]
    numbered = [row.model_copy(update={"batch": batch}) for row, batch in zip(rows, (7, 2, 7), strict=True)]
    assert passes(numbered, 2) == [[(3, 0)], [(1, 3)], [(5, 0), (4, 0)]], (
        "a stored batch number counts, wherever a resumed run began"
    )


def test_share_of_the_roof() -> None:
    run = fake_run(Fake())
    samples = [sample(0, [(1, 0, 0), (1, 5, 0)], 6.0), sample(1, [(1, 0, 0)], 4.0), sample(2, [], None)]
    assert roof_share(run, samples) is None, "not measured is unknown"
    assert roof_share(run.model_copy(update={"roofline": ROOF.record()}), samples) == pytest.approx(
        (2 + 2.5 + 2) / 10
    )
    assert roof_share(run, [samples[2]], ROOF) is None


def test_audit_fails_above_the_roof() -> None:
    one = [sample(0, [(1, 0, 0)], 1.0)]
    assert audit_run(one, roof_share=0.4).passed
    beyond = audit_run(one, roof_share=5.0)
    assert not beyond.passed
    assert [(check.name, check.detail) for check in beyond.checks if not check.passed] == [
        ("within_roofline", "500% of the roofline")
    ]


def slowed(factor: float) -> Roofline:
    """The toy device as a busy machine measures it."""
    return Roofline(
        Hardware("toy", ROOF.hardware.bandwidth / factor, ROOF.hardware.flops / factor), ROOF.cost
    )


def test_a_roofline_of_a_busy_machine_fails_no_honest_run() -> None:
    samples = [sample(0, [(1, 0, 0)], 2.5)]
    run = fake_run(Fake()).model_copy(update={"roofline": slowed(8).record()})
    assert roof_share(run, samples) == pytest.approx(6.4), "far beyond the roof as stored"
    answers = [slowed(4), ROOF, slowed(2)]
    share = settled_share(run, samples, lambda: answers.pop(0))
    assert share == pytest.approx(0.8)
    assert audit_run(samples, share).passed
    assert len(answers) == 1, "no further measurement once the share is possible"
    assert run.roofline is not None
    assert Roofline.from_record(run.roofline) == ROOF
    assert [entry["share_before"] for entry in run.roofline["again"]] == [
        pytest.approx(6.4),
        pytest.approx(3.2),
    ]
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_a_run_beyond_the_roof_still_fails_after_measuring_again() -> None:
    samples = [sample(0, [(1, 0, 0)], 0.5)]
    run = fake_run(Fake()).model_copy(update={"roofline": ROOF.record()})
    share = settled_share(run, samples, lambda: slowed(3))
    assert share == pytest.approx(4.0), "a slower measurement replaces nothing"
    assert not audit_run(samples, share).passed
    assert run.roofline is not None
    assert len(run.roofline["again"]) == 3


def test_a_run_without_a_roofline_measures_nothing() -> None:
    run = fake_run(Fake())
    assert settled_share(run, [sample(0, [(1, 0, 0)], 1.0)], lambda: pytest.fail("measured")) is None
    assert run.roofline is None


def test_measured_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu = torch.device("cpu")
    first = hardware(cpu, torch.float32, 3_000_000)
    assert cache_path() == tmp_path / "dllm-bench" / "roofline.json"
    stored = json.loads(cache_path().read_text())
    assert stored == {first.name: {"bandwidth": first.bandwidth, "flops": first.flops}}
    assert "buffer=4MiB" in first.name
    assert "threads=1" in first.name
    marked = {first.name: {"bandwidth": 1.0, "flops": 2.0}}
    cache_path().write_text(json.dumps(marked))
    assert hardware(cpu, torch.float32, 3_000_000) == Hardware(first.name, 1.0, 2.0), "taken from the cache"
    better = hardware(cpu, torch.float32, 3_000_000, fresh=True)
    assert min(better.bandwidth, better.flops) > 1e8, "measured again"
    cache_path().write_text(json.dumps({first.name: {"bandwidth": 1e18, "flops": 1.0}}))
    kept = hardware(cpu, torch.float32, 3_000_000, fresh=True)
    assert kept.bandwidth == 1e18, "the better of two measurements"
    assert kept.flops > 1e8
    cache_path().write_text('{"torn')
    assert hardware(cpu, torch.float32, 3_000_000).bandwidth > 1e8, "a damaged cache is measured again"


def test_a_real_decode_stays_below_its_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = load(str(GOLDEN / "dream_wide_tiny"))
    roofline = roofline_for(loaded.backbone)
    decoder = load_method("vanilla").decoder
    row = decode(loaded.backbone, decoder, decoder.Config(), [[5, 6, 7]], 16)[0]
    run: Run = fake_run(Fake())
    share = roof_share(run, [sample(0, row.forwards, row.time_s)], roofline)
    assert share is not None
    assert 0 < share < 1


def test_a_waiting_row_begins_in_the_pass_after_anothers_last() -> None:
    samples = [
        sample(order, [(order + 1, step, 0) for step in range(count)], 1.0).model_copy(update={"batch": 0})
        for order, count in enumerate((1, 3, 2, 1))
    ]
    assert passes(samples, 2) == [[(1, 0), (2, 0)], [(2, 1), (3, 0)], [(2, 2), (3, 1)], [(4, 0)]]
    assert len(passes(samples, 4)) == 3
