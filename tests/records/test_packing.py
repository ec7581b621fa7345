"""Packed samples: nothing lost, the same bytes every time, read and continued like plain ones."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.pack import pack_command
from harness.records.files import LineFile, packed, whole_lines
from harness.records.packing import pack_run
from harness.records.schema import RecordError, find_runs, read_run, read_samples, sample_lines, write_run
from harness.records.store import RunFolder, StoreError
from reports.load import read_stored
from tests.synthetic_runs import Fake, fake_run, write_fake

FAKE = Fake(documents=4)
KEYS = [(document, 0) for document in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run under the id that its command would give it."""
    folder = write_fake(tmp_path, FAKE)
    write_run(folder, read_run(folder).model_copy(update={"run_id": fake_run(FAKE).run_id}))
    return folder


def continued(folder: Path) -> RunFolder:
    return RunFolder(folder.parents[2], read_run(folder), fresh=False)


def test_packed_samples_are_read_like_plain_ones_and_come_back_byte_for_byte(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, small = folder / "samples.jsonl", folder / "samples.jsonl.xz"
    before, lines, stored = plain.read_bytes(), list(sample_lines(folder)), read_stored(folder)
    pack_command([folder])
    assert "1 runs packed" in capsys.readouterr().out
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "the lock is gone"
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "samples.jsonl.xz"]
    assert lzma.decompress(small.read_bytes()) == before
    assert list(sample_lines(folder)) == lines
    assert read_stored(folder) == stored
    first = small.read_bytes()
    pack_command([folder])
    assert small.read_bytes() == first, "packing what is packed changes nothing"
    pack_command([folder], undo=True)
    assert (plain.read_bytes(), small.exists()) == (before, False)
    plain.touch()
    pack_command([folder])
    assert small.read_bytes() == first


def test_a_packed_run_is_complete_with_nothing_to_do(folder: Path) -> None:
    pack_run(folder)
    again = continued(folder)
    again.expect(KEYS)
    assert (again.complete, again.missing(KEYS), again.stored) == (True, [], 4)
    again.close()
    assert not (folder / "samples.jsonl").exists()


def test_an_unfinished_run_is_left_plain_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = folder / "samples.jsonl"
    kept = plain.read_bytes().splitlines(keepends=True)
    plain.write_bytes(b"".join(kept[:3]) + kept[3][:20])
    pack_command([folder])
    assert "is left as it is: incomplete, 3 of 4 samples" in capsys.readouterr().out
    write_run(folder, read_run(folder).model_copy(update={"status": "running"}))
    plain.write_bytes(b"".join(kept))
    assert "incomplete" in (pack_run(folder) or "")
    assert plain.read_bytes() == b"".join(kept)


def test_a_packed_run_that_lacks_samples_is_unpacked_and_continued(folder: Path) -> None:
    plain = folder / "samples.jsonl"
    samples = read_samples(folder)
    kept = plain.read_bytes().splitlines(keepends=True)
    packed(plain).write_bytes(lzma.compress(b"".join(kept[:3]) + kept[3][:20]))
    plain.unlink()
    again = continued(folder)
    again.expect(KEYS)
    assert (again.complete, again.missing(KEYS)) == (False, [(3, 0)])
    again.append(samples[3])
    again.close()
    assert plain.read_bytes().startswith(b"".join(kept[:3]))
    assert not packed(plain).exists()
    assert [sample.doc_id for sample in read_samples(folder)] == [0, 1, 2, 3]


def test_where_packing_was_cut_short_the_plain_file_counts(folder: Path) -> None:
    plain = folder / "samples.jsonl"
    before = plain.read_bytes()
    packed(plain).write_bytes(b"half of a fi")
    assert len(read_samples(folder)) == 4
    pack_run(folder)
    assert lzma.decompress(packed(plain).read_bytes()) == before


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda data: data[:200] + b"XX" + data[202:], lambda data: b"no xz"]
)
def test_a_damaged_packed_file_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    pack_run(folder)
    small = folder / "samples.jsonl.xz"
    small.write_bytes(damage(small.read_bytes()))
    for read in (read_samples, read_stored, continued, pack_run):
        with pytest.raises(RecordError, match=r"samples\.jsonl\.xz is damaged .*--fresh"):
            read(folder)


def test_a_run_that_is_being_written_is_not_packed(folder: Path) -> None:
    writing = continued(folder)
    with pytest.raises(StoreError, match="is being written by another process"):
        pack_run(folder)
    writing.close()
    assert (folder / "samples.jsonl").exists()


def test_a_place_without_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no runs below"):
        pack_command([tmp_path / "nowhere"])


def test_a_line_file_is_unpacked_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    packed(path).write_bytes(lzma.compress(b"1\n2\n3"))
    assert list(whole_lines(path)) == [(1, b"1"), (2, b"2")]
    file = LineFile(path)
    file.append(b"4")
    file.close()
    assert (path.read_bytes(), packed(path).exists()) == (b"1\n2\n4\n", False)


def test_every_committed_run_is_packed() -> None:
    results = Path(__file__).parents[2] / "results"
    assert [str(folder) for folder in find_runs(results) if not (folder / "samples.jsonl.xz").exists()] == []
