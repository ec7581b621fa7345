"""Speed tables: visited in turn, continued after a kill, refused when edited."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.measuring import roofline
from harness.measuring.roofline import RETRIES
from harness.measuring.speed import SpeedError
from harness.records.files import whole_lines
from harness.records.schema import RecordError
from harness.records.speed import HEADER, LINES, read_speed
from harness.runs import speed
from harness.runs.speed import Asked, Table, share
from tests.commands import bench
from tests.synthetic_runs import Fake, write_fake

CPU = torch.device("cpu")
GRID = ("--shape", "nano", "--layers", 1, "--query", "1,4", "--cached", "0,8", "--rounds", 2, "--repeats", 2)


class Killed(Exception):
    """Stands for a kill between two visits."""


@pytest.fixture(autouse=True)
def quick_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is not measured, and no figure of these tests stays in the user's cache."""
    monkeypatch.setattr(roofline, "_bandwidth", lambda *_: 1e10)
    monkeypatch.setattr(roofline, "_matmul_rate", lambda *_: 1e11)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def asked(**changes: object) -> Asked:
    given: dict[str, object] = {
        "shape": "nano",
        "layers": 1,
        "dtype": torch.float32,
        "device": CPU,
        "rows": [1, 2],
        "query": [1, 4],
        "cached": [8],
        "rounds": 2,
        "repeats": 2,
    }
    return Asked(**{**given, **changes})  # pyright: ignore[reportArgumentType]


def test_a_killed_table_goes_on_with_the_missing_visits(tmp_path: Path) -> None:
    table = Table(asked())
    backbone, left = table.load(), 3

    def kill() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    folder = table.open(tmp_path, backbone, fresh=False)
    with pytest.raises(Killed):
        table.measure(folder, backbone, kill)
    folder.close()
    before = [line for _, line in whole_lines(folder.path / LINES)]
    with (folder.path / LINES).open("ab") as file:
        file.write(b'{"rows": 1, "torn')
    assert len(before) == 3
    assert not table.stored(tmp_path)

    visits: list[None] = []
    again = table.open(tmp_path, backbone, fresh=False)
    table.measure(again, backbone, lambda: visits.append(None))
    again.close()
    run, timings = read_speed(folder.path)
    assert (len(visits), len(timings), run.status) == (5, 8, "complete")
    assert table.stored(tmp_path)
    # Whatever the roof was found to be in the end, the times of the first three are those that were stored.
    assert [timing.times_s for timing in timings[:3]] == [json.loads(line)["times_s"] for line in before]
    # A B C D, then D C B A.
    cells = [timing.key[:4] for timing in timings]
    assert cells[4:] == cells[3::-1]


def test_a_beaten_roof_is_measured_again_and_lowers_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(asked(rows=[1], query=[2]))
    backbone, real = table.load(), speed.roofline_for
    slow = real(backbone)
    too_slow = type(slow)(type(slow.hardware)(slow.hardware.name, 1.0, 1.0), slow.cost)
    monkeypatch.setattr(speed, "roofline_for", lambda _, fresh=False: slow if fresh else too_slow)
    folder = table.open(tmp_path, backbone, fresh=False)
    table.measure(folder, backbone, lambda: None)
    folder.close()
    run, timings = read_speed(folder.path)
    again = run.roofline["again"]
    assert 1 <= len(again) <= RETRIES
    assert again[0]["share_before"] > 1000
    assert run.roofline["hardware"]["flops"] == slow.hardware.flops
    assert all(timing.roof_s == pytest.approx(slow.seconds([(2, 8)])) for timing in timings)
    assert all(share(timing) < 1000 for timing in timings)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measuring.memory.free", lambda _: 4e9)
    with pytest.raises(
        SpeedError, match=r"dream7b with 28 layers in float32 takes 30.5 GB .* 4 GB are free"
    ) as told:
        Table(asked(shape="dream7b", layers=None)).load()
    assert all(flag in str(told.value) for flag in ("--layers", "--dtype", "--shape", "--rows"))


@pytest.mark.parametrize("field", ["times_s", "roof_s", "query"])
def test_an_edited_line_is_refused(tmp_path: Path, field: str) -> None:
    table = Table(asked(rows=[1], query=[1]))
    backbone = table.load()
    folder = table.open(tmp_path, backbone, fresh=False)
    table.measure(folder, backbone, lambda: None)
    folder.close()
    path = folder.path / LINES
    line = json.loads(path.read_text().splitlines()[0])
    line[field] = {"times_s": [1e-6, 1e-6], "roof_s": 2 * line["roof_s"], "query": 3}[field]
    rest = path.read_text().splitlines()[1:]
    path.write_text("\n".join([json.dumps(line, separators=(",", ":")), *rest]) + "\n")
    with pytest.raises(RecordError, match=r"timings.jsonl line 1: .*move the folder away or use --fresh"):
        read_speed(folder.path)
    header = json.loads((folder.path / HEADER).read_text())
    header["plan"]["layers"] = 6
    (folder.path / HEADER).write_text(json.dumps(header))
    with pytest.raises(RecordError, match="is not that of its plan"):
        read_speed(folder.path)


def test_the_command_stores_prints_and_reports(tmp_path: Path) -> None:
    store = tmp_path / "speed"
    done = bench("speed", *GRID, "--threads", 1, "-o", store)
    assert done.returncode == 0, done.stderr
    assert "nano, 1 of 6 layers, float32, on" in done.stdout
    (folder,) = (path.parent for path in store.rglob(HEADER))
    run, timings = read_speed(folder)
    plan = run.plan
    assert len(timings) == 8
    assert (plan.layers, plan.of_layers, plan.dtype, plan.threads) == (1, 6, "float32", 1)
    assert (plan.torch, plan.attention) == (torch.__version__, "sdpa")
    text = "".join(
        path.read_text() for path in (folder / HEADER, folder / LINES, store / "report" / "speed.md")
    )
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text.split()
    assert (store / "report" / "index.html").read_text().count("<tr>") == 5
    again = bench("speed", *GRID, "--threads", 1, "-o", store)
    assert "is measured already" in again.stderr


def test_replays_force_the_windows_of_every_method(tmp_path: Path) -> None:
    short = {"documents": 3, "length_factor": 0.3}
    fakes = [Fake("vanilla", **short), Fake("d2f", tokens_per_forward=3.0, **short)]
    runs = [write_fake(tmp_path / "runs", fake) for fake in fakes]
    table = Table(asked(replays=runs, rows=[1, 2], answers=3, rounds=1, prompt_tokens=20))
    backbone = table.load()
    folder = table.open(tmp_path / "speed", backbone, fresh=False)
    table.measure(folder, backbone, lambda: None)
    folder.close()
    run, timings = read_speed(folder.path)
    assert [one.method for one in run.plan.replays] == ["vanilla", "d2f"]
    # Three answers alone; of three in batches of two, two.
    assert sorted((timing.rows, timing.answers) for timing in timings) == [(1, 3), (1, 3), (2, 2), (2, 2)]
    alone = {timing.run_id: timing for timing in timings if timing.rows == 1}
    vanilla, d2f = (alone[one.run_id] for one in run.plan.replays)
    assert vanilla.useful == d2f.useful
    assert (vanilla.nfe or 0) == pytest.approx(3 * (d2f.nfe or 0), rel=0.2)
    assert vanilla.roof_s > 2 * d2f.roof_s


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--shape", "gpt"), "--shape 'gpt' is unknown"),
        (("--rows", "1,x"), "--rows '1,x': give whole numbers"),
        (("--query", "0,4"), "--query '0,4': numbers below 1"),
        (("--replay", "nowhere"), "--replay nowhere: no runs there"),
        (("--report",), "no speed tables below"),
    ],
)
def test_faults_name_the_flag(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = bench("speed", *words, "-o", tmp_path / "speed")
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_every_refusal_is_the_users_to_mend() -> None:
    assert issubclass(SpeedError, UserError)
