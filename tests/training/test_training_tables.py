"""Training sets on disk: every form gives the same rows, and the look for test problems happens once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.model.recognise import read_spec
from methods.training import options
from methods.training.data import answers, overlap, sources, tables
from methods.training.options import TrainingError
from methods.training.students.cfd import CFDOptions

NANO = Path(__file__).parents[2] / "methods" / "models" / "nano"
ROWS: list[dict[str, Any]] = [
    {"prompt": f"Q: {i}+{i}\nA:", "response": f" {i}+{i}={2 * i}", "correct": i % 3 != 0, "note": "x"}
    for i in range(40)
]


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Path]:
    """The same rows in all forms."""
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a.jsonl").write_text("".join(lines[:11]))
    pq.write_table(table.slice(11), parts / "b.parquet")
    (parts / "a.card.json").write_text("{}")
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(str(tmp_path / "splits"))
    names = ("rows.jsonl", "rows.parquet", "parts", "saved", "splits")
    return {name: tmp_path / name for name in names}


def read(path: Path, tmp_path: Path) -> sources.Data:
    chosen = options.preset(
        CFDOptions, "cfd", "smoke", {"output": tmp_path, "work": tmp_path, "keep": "correct"}
    )
    return sources.read_answers(path, NANO, read_spec(NANO), chosen)


def test_every_form_gives_the_same_rows(
    forms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH", 3)
    found = {name: read(path, tmp_path) for name, path in forms.items()}
    first = found["rows.jsonl"]
    assert (first.facts["rows"], first.facts["left_out"]) == (26, 14)
    for data in found.values():
        for name in ("ids", "starts", "prompts"):
            assert np.array_equal(getattr(data.pool, name), getattr(first.pool, name))
        assert np.array_equal(data.orders, first.orders)
    assert len({data.facts["sha256"] for data in found.values()}) == len(forms)


def test_what_cannot_be_read_is_named(forms: dict[str, Path], tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(TrainingError, match=r"other\.parquet has the columns text and none of prompt_ids"):
        read(tmp_path / "other.parquet", tmp_path)
    (tmp_path / "torn.parquet").write_bytes(forms["rows.parquet"].read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"torn\.parquet cannot be read as Parquet"):
        read(tmp_path / "torn.parquet", tmp_path)
    pq.write_table(pa.table({"prompt": ["a", None], "response": ["b", "c"]}), tmp_path / "hole.parquet")
    with pytest.raises(TrainingError, match=r"hole\.parquet row 2 is no answer"):
        read(tmp_path / "hole.parquet", tmp_path)
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "empty", "does not hold"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(TrainingError, match=words):
            read(path, tmp_path)
    (forms["splits"] / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(TrainingError, match="no split train: name one of its folders test"):
        read(forms["splits"], tmp_path)


def test_a_content_hash_covers_every_file_of_a_folder(forms: dict[str, Path]) -> None:
    before = answers.file_hash(forms["parts"])
    path = forms["parts"] / "a.jsonl"
    path.write_text(path.read_text() + json.dumps(ROWS[0]) + "\n")
    changed = answers.file_hash(forms["parts"])
    path.rename(path.with_name("c.jsonl"))
    assert len({before, changed, answers.file_hash(forms["parts"])}) == 3


def test_the_look_for_test_problems_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (data := tmp_path / "data").mkdir()
    monkeypatch.setenv("BENCH_DATA", str(data))
    looks = []

    def look(prompts: list[str], data_dir: str | None = None) -> tuple[list[overlap.Overlap], list[str]]:
        looks.append(prompts)
        found = [overlap.Overlap(0, "gsm8k", 7)] if "stolen" in prompts else []
        return found, ["math500"]

    monkeypatch.setattr(overlap, "overlapping", look)
    source = tmp_path / "rows.jsonl"
    for content in ("one", "one", "two"):
        assert overlap.refuse_overlap(lambda: ["a"], source, content) == ["math500"]
    assert len(looks) == 2
    assert capsys.readouterr().out.count("not compared with math500") == 3
    (data / "new_test.jsonl").write_text("{}\n")  # data of a suite have come
    overlap.refuse_overlap(lambda: ["a"], source, "one")
    assert len(looks) == 3
    monkeypatch.setattr(overlap, "DAY", -1.0)  # what could not be compared is tried again after a day
    overlap.refuse_overlap(lambda: ["a"], source, "one")
    assert len(looks) == 4
    for _ in range(2):
        with pytest.raises(overlap.OverlapError, match=r"1 of 1 problems of .* gsm8k document 7"):
            overlap.refuse_overlap(lambda: ["stolen"], source, "bad")
    assert len(looks) == 6
    memory = overlap.memory_of("one")
    memory.write_text('{"unchecked": 3}')
    overlap.refuse_overlap(lambda: ["a"], source, "one")
    assert len(looks) == 7
