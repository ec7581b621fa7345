"""``bench sweep``: cells in a fixed order, a crash is a recorded cell, killed sweeps continue, workers change
nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records.schema import find_runs, read_run, read_samples
from harness.runs.sweep import Job, Outcome, State, Sweep, SweepError, cells, number_of_cells, read_sweep
from harness.runs.workers import run_local
from suites.suite import list_suites
from tests.commands import BENCH, answers, bench, started
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]

SMALL = """
suites: [nano-gsm]
limit: 2
methods:
  - method: vanilla
    settings: {tokens_per_step: [4, 8]}
  - method: vanilla
    settings: {no_such_setting: 1}
"""


def sweep_of(text: str, folder: Path) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_cells_are_the_product_in_a_fixed_order(tmp_path: Path) -> None:
    sweep = Sweep.model_validate(
        {
            "methods": [
                {"method": "vanilla"},
                {"method": "fast_dllm", "settings": {"cache": ["prefix", None], "threshold": [0.8, 0.9]}},
            ],
            "suites": ["nano-gsm", "nano-code"],
            "batch_sizes": [1, 4],
            "limit": 8,
        }
    )
    found = cells(sweep, tmp_path)
    assert len(found) == len({cell.key for cell in found}) == 2 * 2 * 5
    assert found[0].label == "nano-gsm vanilla"
    assert found[6].label == "nano-gsm fast_dllm (cache=prefix, threshold=0.8) batch 4"
    assert [cell.key for cell in found] == [cell.key for cell in cells(sweep, tmp_path)]
    joined = " ".join(found[-1].arguments)
    assert "--suite nano-code --batch_size 4 --set cache=none --set threshold=0.9 --limit 8" in joined
    assert "--threads 1" in joined, "the thread count is part of a plan and must not depend on --workers"


def test_prompts_are_an_axis_and_a_seed_counts_only_with_examples(tmp_path: Path) -> None:
    sweep = Sweep.model_validate(
        {
            "methods": [{"method": "ar"}],
            "suites": ["nano-gsm"],
            "templates": ["default", "framed"],
            "num_fewshot": [None, 0, 2],
            "fewshot_seeds": [1, 2],
            "apply_chat_template": True,
            "wandb": True,
        }
    )
    found = cells(sweep, tmp_path)
    assert len(found) == 2 * (1 + 1 + 2)
    assert [cell.label for cell in found[:4]] == [
        "nano-gsm ar",
        "nano-gsm ar num_fewshot 0",
        "nano-gsm ar num_fewshot 2 fewshot_seed 1",
        "nano-gsm ar num_fewshot 2 fewshot_seed 2",
    ]
    last = " ".join(found[-1].arguments)
    assert (
        "--template framed --num_fewshot 2 --fewshot_seed 2 --apply_chat_template --wandb --output_path"
        in last
    )


BAD = [
    ("methods: []\nsuites: [nano-gsm]", "methods: List should have at least 1 item"),
    (
        "methods: [{method: vanilla}]\nsuites: [nano-gsm]\nworkers: 3",
        "unknown key workers",
    ),
    ("methods: [", "is no valid YAML"),
    ("methods: !!python/object/apply:os.system ['true']", "is no valid YAML .*python/object"),
    ("- a", "valid dictionary"),
    ("&a [*a]", "is no valid YAML"),
    ("x: " + "[" * 3000, "is no valid YAML .*nested too deeply"),
    ("model: 1" + ":1" * 200_000 + "\n", "is no valid YAML .*digits"),
    ('model: "\\ud800"\n', "is no valid YAML .*half a character"),
    (
        f"methods: [{{method: a, settings: {{a: &x {[*range(300)]}, b: *x, c: *x}}}}]\nsuites: [nano-gsm]",
        "makes 27,000,000 cells, and at most 100,000 are run",
    ),
]


def test_a_sweep_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_bytes(b"methods: [\xff]")
    with pytest.raises(SweepError, match=r"sweep.yaml cannot be read .*utf-8"):
        read_sweep(tmp_path / "sweep.yaml")
    with pytest.raises(SweepError, match="no such file"):
        read_sweep(tmp_path / "absent.yaml")


def test_the_number_of_cells_is_that_of_the_cells(tmp_path: Path) -> None:
    told = {
        "methods": [{"method": "a", "settings": {"x": [1, 2, 3], "y": 1}}, {"method": "b"}],
        "suites": ["s", "t"],
        "num_fewshot": [None, 0, 2, 4],
        "fewshot_seeds": [1, 2, 3],
        "batch_sizes": [1, 4],
    }
    sweep = Sweep.model_validate(told)
    assert number_of_cells(sweep) == len(cells(sweep, tmp_path)) == 128


@pytest.mark.parametrize(("text", "message"), BAD)
def test_faults_name_the_key(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=message):
        read_sweep(sweep_of(text, tmp_path))


def test_a_cell_may_not_be_named_twice(tmp_path: Path) -> None:
    twice = Sweep.model_validate({"methods": [{"method": "ar"}, {"method": "ar"}], "suites": ["nano-gsm"]})
    with pytest.raises(SweepError, match="names one cell twice"):
        cells(twice, tmp_path)


def test_shipped_sweeps_are_valid_and_no_suites(tmp_path: Path) -> None:
    files = sorted((ROOT / "suites" / "sweeps").glob("*.yaml"))
    assert len(files) >= 3
    for path in files:
        sweep = read_sweep(path)
        assert len(cells(sweep, tmp_path)) >= 12
        assert set(sweep.suites) <= set(list_suites())


def outcome(key: str, status: str = "complete") -> Outcome:
    return Outcome(key, "label", status, 0, 1.0)  # pyright: ignore[reportArgumentType]


def test_state_survives_a_torn_line(tmp_path: Path) -> None:
    wanted = [Job("a", ("a",)), Job("b", ("b",)), Job("c", ("c",))]
    state = State(tmp_path)
    state.add(outcome(wanted[0].key))
    state.add(outcome(wanted[1].key, "crashed"))
    state.close()
    with state.path.open("ab") as file:
        file.write(json.dumps({"key": wanted[2].key}).encode()[:9])
    again = State(tmp_path)
    assert again.pending(wanted, retry=False) == [wanted[2]]
    assert again.pending(wanted, retry=True) == wanted[1:]
    again.add(outcome(wanted[2].key))
    again.close()
    assert State(tmp_path).pending(wanted, retry=False) == []


def test_damaged_state_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "sweep.jsonl").write_text('{"nonsense": 1}\n')
    with pytest.raises(SweepError, match=r"sweep.jsonl line 1 is damaged"):
        State(tmp_path)


def test_time_limit_is_a_recorded_cell(tmp_path: Path) -> None:
    cell = Job("slow", ("run", "--method", "vanilla", "--suite", "nano-gsm", "-o", str(tmp_path)))
    state, seen = State(tmp_path), list[Outcome | None]()
    run_local([cell], state, 1, [], 0.3, lambda _, ended: seen.append(ended))
    assert [ended.status for ended in seen if ended is not None] == ["timeout"]
    assert state.outcomes[cell.key].status == "timeout"


def test_killed_sweep_continues_and_a_refused_cell_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    path, output = sweep_of(SMALL, tmp_path), tmp_path / "killed"
    process = started("sweep", path, "-o", output)
    wait_until(lambda: bool(_lines(output)), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _lines(output) == 1, "one cell had finished"
    first = (output / "sweep.jsonl").read_text()
    done = bench("sweep", path, "-o", output, "--workers", 2)
    assert done.returncode == 1, "a refused cell is no success"
    assert (output / "sweep.jsonl").read_text().startswith(first), "the finished cell is not run again"
    assert "2 complete, 1 refused of 3 cells" in done.stdout
    assert "no chosen method has this setting" in done.stdout
    runs = [read_run(folder) for folder in find_runs(output)]
    assert [
        (run.status, len(read_samples(folder))) for run, folder in zip(runs, find_runs(output), strict=True)
    ] == [("complete", 2)] * 2
    repeated = bench("sweep", path, "-o", output)
    assert "2 complete, 1 refused of 3 cells" in repeated.stdout
    assert _lines(output) == 3, "nothing ran again"


def _lines(output: Path) -> int:
    path = output / "sweep.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ray_gives_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the train extra is not installed")
    path = sweep_of(SMALL, tmp_path)
    for name, flags in (("plain", []), ("ray", ["--ray", "--workers", "2"])):
        bench("sweep", path, "-o", tmp_path / name, *flags)
    assert len(answers(tmp_path / "ray")) == 4
    assert answers(tmp_path / "ray") == answers(tmp_path / "plain")


@pytest.mark.skipif("ray" in sys.modules, reason="Ray is installed")
def test_without_ray_the_flag_says_what_to_install(tmp_path: Path) -> None:
    blocked = tmp_path / "ray"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ImportError('blocked')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [*BENCH, "sweep", str(sweep_of(SMALL, tmp_path)), "-o", str(tmp_path / "o"), "--ray"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 2
    assert "pip install 'dllm-bench[train]'" in done.stderr
