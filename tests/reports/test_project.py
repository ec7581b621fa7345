"""Projection: bounds by hand, another prompt length, published rows beside them, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.measuring.windows import with_prompt
from harness.records.schema import Run, Sample
from reports.projection import DEVICES, MODELS, Comparison, ProjectError, device_key, project
from tests.commands import bench
from tests.synthetic_runs import Fake, fake_run, fake_samples, write_fake


def run_of(
    forwards: list[list[tuple[int, int, int]]], useful: int, batch_size: int = 1
) -> tuple[Run, list[Sample]]:
    run, blank = fake_run(Fake()), fake_samples(Fake(documents=1))[0]
    plan = run.plan.model_copy(update={"batch_size": batch_size})
    samples = [
        blank.model_copy(
            update={"doc_id": k, "order": k, "forwards": rows, "useful": useful, "prompt_tokens": 10}
        )
        for k, rows in enumerate(forwards)
    ]
    return run.model_copy(update={"plan": plan}), samples


def test_one_token_per_forward_is_the_forward_rate() -> None:
    run, samples = run_of([[(32, 0, 0)] * 20], useful=20)
    bound = project(run, samples, "h100", "dream-7b")
    assert bound.tps == pytest.approx(237, abs=0.6)
    assert (bound.tpf, bound.memory_bound) == (1.0, 1.0)
    assert project(run, samples, "a100-40", "dream-7b").tps == pytest.approx(1.555e12 / 14.14e9, rel=1e-3)


def test_long_windows_are_bound_by_the_matmul_rate() -> None:
    run, samples = run_of([[(1150, 0, 0)] * 10], useful=10)
    bound = project(run, samples, "h100", "dream-7b")
    cost = MODELS["dream-7b"]
    assert bound.tps == pytest.approx(989e12 / (1150 * (cost.position_flops + 1150 * cost.pair_flops)))
    assert bound.memory_bound == 0.0


def test_cached_keys_cost_bandwidth_and_a_batch_shares_the_weights() -> None:
    run, samples = run_of([[(1, 1000, 1)]], useful=1)
    one = project(run, samples, "h100", "llada-8b")
    assert one.seconds == pytest.approx((15.0e9 + 1000 * 524_288) / 3.35e12, rel=1e-3)
    run, samples = run_of([[(1, 1000, 1)]] * 4, useful=1, batch_size=4)
    four = project(run, samples, "h100", "llada-8b")
    assert four.seconds == pytest.approx((15.0e9 + 4000 * 524_288) / 3.35e12, rel=1e-3)


def test_another_prompt_length() -> None:
    _, samples = run_of([[(42, 0, 10), (8, 10, 0)]], useful=8)
    moved = with_prompt(samples, 900)[0]
    assert moved.forwards == [(932, 0, 10), (8, 900, 0)]
    assert with_prompt(samples, 10)[0].forwards == samples[0].forwards


def test_faults_name_the_flag() -> None:
    run, samples = run_of([[(32, 0, 0)]], useful=1)
    with pytest.raises(ProjectError, match="--device 'b200' is unknown; use a100, a100-40, h100, h200"):
        project(run, samples, "b200", "dream-7b")
    with pytest.raises(ProjectError, match="--model 'gpt' is unknown"):
        project(run, samples, "h100", "gpt")
    with pytest.raises(ProjectError, match="no samples with recorded forwards"):
        project(run, [], "h100", "dream-7b")


def test_devices_as_printed() -> None:
    printed = ["A100-40 PCIe", "A100", "H100", "H200 SXM", "L4"]
    assert [device_key(name) for name in printed] == ["a100-40", "a100", "h100", "h200", None]


def test_comparison() -> None:
    row = Comparison(
        "GSM8K", "d3LLM", "H100", "transformers", tps=235, tpf=4.9, assumed=False, forwards_per_s=237
    )
    assert row.share == pytest.approx(0.202, abs=0.001)
    assert row.least_tpf == pytest.approx(0.99, abs=0.005)
    assert Comparison("s", "m", "H100", "e", 235, None, False, 237).share is None


def test_command_labels_bounds_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    folder = write_fake(tmp_path, Fake("d2f", tokens_per_forward=2.35))
    command = ["project", str(folder), "--device", "h100,a100-40", "--model", "dream-7b"]
    done = bench(*command)
    assert done.returncode == 0, done.stderr
    assert "Upper bounds, not measurements" in done.stdout
    assert "d3LLM-Dream" in done.stdout
    assert "of the bound" in done.stdout
    tpf = json.loads((folder / "run.json").read_text())["summary"]["tpf"]
    # 32..96 positions are memory-bound on every device, so the bound is tokens per forward x forwards per
    # second.
    assert f"{tpf * DEVICES['h100'].bandwidth / MODELS['dream-7b'].weight_bytes:.0f}" in done.stdout
    wrong = bench("project", str(tmp_path))
    assert (wrong.returncode, "not a run folder" in wrong.stderr) == (2, True)
