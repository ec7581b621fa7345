"""The run store: locked before anything is deleted, nothing torn, complete only with all of its samples, and
no foreign or edited ones.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records import files
from harness.records.evidence import read_evidence, sealed
from harness.records.schema import RecordError, read_run, read_samples, write_run
from harness.records.store import RunFolder, StoreError
from reports.load import read_stored
from tests.synthetic_runs import Fake, fake_run, fake_samples, write_fake

FAKE = Fake(documents=4)


def opened(root: Path, fresh: bool = False) -> RunFolder:
    return RunFolder(
        root, fake_run(FAKE).model_copy(update={"status": "running", "audit": None, "summary": None}), fresh
    )


def test_fresh_deletes_nothing_while_another_process_writes(tmp_path: Path) -> None:
    first = opened(tmp_path)
    samples = fake_samples(FAKE, first.run.run_id)
    first.append(samples[0])
    with pytest.raises(StoreError, match="is being written by another process"):
        opened(tmp_path, fresh=True)
    first.append(samples[1])
    first.close()
    assert [sample.doc_id for sample in read_samples(first.path)] == [0, 1]
    again = opened(tmp_path, fresh=True)
    assert read_samples(again.path) == []
    again.close()


def test_the_lock_lies_outside_the_folder_and_survives_its_removal(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert sorted(path.name for path in first.path.iterdir()) == ["run.json"]
    first.path.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="is being written by another process"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()
    assert [path for path in tmp_path.rglob("*") if "lock" in path.name] == [], "nothing is left behind"


@pytest.mark.parametrize("part", ["run", "sample"])
def test_a_full_disk_is_one_line_and_nothing_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    folder = opened(tmp_path)
    samples = fake_samples(FAKE, folder.run.run_id)
    folder.append(samples[0])
    before = (folder.path / "run.json").read_bytes()
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        """Takes half of what it is given, then nothing, as a full disk does."""
        if len(data) > 20:
            return real(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(descriptor: int, data: Any) -> int:
        return full(descriptor, data) if len(data) > 20 else full(descriptor, b"")

    monkeypatch.setattr(files.os, "write", half)
    with pytest.raises(
        StoreError, match=r"No space left on device.*1 of its samples are safe.*same command continues"
    ):
        folder.append(samples[1]) if part == "sample" else folder.save()
    monkeypatch.undo()
    assert (folder.path / "run.json").read_bytes() == before
    assert (folder.path / "samples.jsonl").read_text() == sealed(samples[0]).decode() + "\n"
    assert sorted(path.name for path in folder.path.iterdir()) == ["run.json", "samples.jsonl"]
    folder.append(samples[1])
    folder.close()
    assert [sample.model_copy(update={"seal": None}) for sample in read_samples(folder.path)] == samples[:2]


def edited(folder: Path, line: int, change: Callable[[dict[str, Any]], Any]) -> None:
    lines = (folder / "samples.jsonl").read_text().splitlines()
    entry = json.loads(lines[line])
    change(entry)
    lines[line] = json.dumps(entry)
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


EDITS: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("run_id", lambda one: one.update(run_id="another")),
    ("suite", lambda one: one.update(suite="humaneval")),
    ("method", lambda one: one.update(method="ar")),
    ("nfe", lambda one: one.update(nfe=one["nfe"] - 1)),
    ("positions", lambda one: one.update(positions=one["positions"] + 1)),
    ("output_hash", lambda one: one["output_ids"].__setitem__(0, 99)),
    ("step_map", lambda one: one["step_map"].pop()),
    ("step_map", lambda one: one["step_map"].__setitem__(0, 10_000)),
    ("forward_s", lambda one: one.update(time_s=one["time_s"] / 2)),
    ("useful", lambda one: one.update(useful=len(one["output_ids"]) + 1)),
    ("time_s", lambda one: one.update(time_s=0.0)),
    ("latency_s", lambda one: one.update(latency_s=one["time_s"] * 2)),
    ("repeat", lambda one: one.update(repeat=7)),
]


@pytest.mark.parametrize(
    ("field", "change"), EDITS, ids=[f"{place}-{field}" for place, (field, _) in enumerate(EDITS)]
)
def test_an_edited_or_foreign_sample_is_refused_by_file_line_and_field(
    tmp_path: Path, field: str, change: Any
) -> None:
    folder = write_fake(tmp_path, FAKE)
    assert read_stored(folder).reason_left_out is None
    edited(folder, 2, change)
    with pytest.raises(RecordError, match=rf"samples\.jsonl line 3: {field}"):
        read_stored(folder)
    with pytest.raises(RecordError, match=rf"samples\.jsonl line 3: {field}.*--fresh"):
        opened(tmp_path)


@pytest.mark.parametrize("field", ["time_s", "latency_s", "correct", "text", "nfe"])
def test_a_stored_line_is_sealed(tmp_path: Path, field: str) -> None:
    """Halving all times of an answer contradicts nothing else; the line itself says that it was changed."""
    folder = opened(tmp_path)
    for sample in fake_samples(FAKE, folder.run.run_id):
        folder.append(sample)
    folder.close()
    assert read_evidence(folder.path, folder.run) == [
        sample.model_copy(update={"seal": stored.seal})
        for sample, stored in zip(
            fake_samples(FAKE, folder.run.run_id), read_samples(folder.path), strict=True
        )
    ]
    lines = (folder.path / "samples.jsonl").read_text().splitlines()
    entry = json.loads(lines[1])
    value = entry[field]
    old, new = (
        f'"{field}":{json.dumps(one)}'
        for one in (
            value,
            value / 2 if field.endswith("_s") else not value if field == "correct" else value * 2,
        )
    )
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new)
    (folder.path / "samples.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match=r"samples\.jsonl line 2: (seal|nfe|latency_s|forward_s)"):
        opened(tmp_path)


def test_runs_from_before_batches_were_numbered_stay_readable(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, FAKE)
    run = read_run(folder)
    write_run(
        folder,
        run.model_copy(update={"expected": None, "plan": run.plan.model_copy(update={"batch_size": 2})}),
    )
    for line in range(4):
        edited(folder, line, lambda one: one.update(batch=None, output_hash="of ids that are not stored"))
    stored = read_stored(folder)
    assert stored.reason_left_out is None
    assert [sample.batch for sample in stored.samples] == [0, 0, 1, 1]


def test_a_repeated_sample_is_refused(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, FAKE)
    lines = (folder / "samples.jsonl").read_text().splitlines()
    (folder / "samples.jsonl").write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(RecordError, match=r"samples\.jsonl line 5: .*document 1.*is there already"):
        read_stored(folder)


def test_complete_is_checked_against_the_samples(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, FAKE)
    kept = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text("".join(kept.splitlines(keepends=True)[:2]))
    assert "2 of 4 samples" in (read_stored(folder).reason_left_out or "")
    (folder / "samples.jsonl").unlink()
    assert "0 of 4 samples" in (read_stored(folder).reason_left_out or "")


def test_a_run_that_lost_samples_is_continued(tmp_path: Path) -> None:
    folder = write_fake(tmp_path, FAKE)
    write_run(folder, read_run(folder).model_copy(update={"run_id": fake_run(FAKE).run_id}))
    kept = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text("".join(kept.splitlines(keepends=True)[:3]))
    again = opened(tmp_path)
    keys = [(document, 0) for document in range(4)]
    again.expect(keys)
    assert not again.complete
    assert again.missing(keys) == [(3, 0)]
    again.close()


def test_documents_that_the_run_does_not_have_are_refused(tmp_path: Path) -> None:
    write_fake(tmp_path, FAKE)
    again = opened(tmp_path)
    with pytest.raises(StoreError, match=r"document 3, repeat 0.*not of this run.*--fresh"):
        again.expect([(document, 0) for document in range(3)])
