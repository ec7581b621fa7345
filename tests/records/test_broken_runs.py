"""Run folders from outside that are broken in ways no kill leaves behind: one line each, no hang."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.records import files
from harness.records.printable import as_code, in_console, in_markdown, printable
from harness.records.schema import RecordError, read_run, read_samples
from reports.load import load
from suites.grading import GradingError, read_lines, run_suite_name
from tests.synthetic_runs import Fake, write_fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_fake(tmp_path / "runs", Fake(documents=4))


def refused(work: Callable[[], Any], kind: type[UserError] = RecordError) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff{}", b"[]", b"{", b"5", b"[" * 200_000, b'{"a": NaN}', b'"\\ud800"', b"7" * 9999]
)
def test_a_run_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "run.json").write_bytes(content)
    assert "run.json" in refused(lambda: read_run(folder))
    assert folder.name in refused(lambda: run_suite_name(folder), GradingError)


@pytest.mark.parametrize("plan", [5, None, [], {"suite": 5}])
def test_a_run_whose_suite_is_no_name(folder: Path, plan: Any) -> None:
    (folder / "run.json").write_text(json.dumps({"plan": plan}))
    assert "does not name its suite" in refused(lambda: run_suite_name(folder), GradingError)


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "1e19", "1" * 30, "-" + "9" * 400]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", ["time_s", "latency_s", "nfe", "peak_memory_bytes", "doc_id"])
def test_samples_with_numbers_that_no_run_writes(folder: Path, name: str, number: str) -> None:
    path = folder / "samples.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    told = json.loads(first)
    path.write_text(first.replace(f'"{name}":{json.dumps(told[name])}', f'"{name}":{number}') + "".join(rest))
    assert "samples.jsonl line 1" in refused(lambda: read_samples(folder))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_with_numbers_that_no_run_writes(folder: Path, number: str) -> None:
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"wall_s": 60.0', f'"wall_s": {number}'))
    assert "run.json" in refused(lambda: read_run(folder))


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl"])
def test_a_folder_in_the_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(lambda: load(folder))


def test_a_packed_file_that_holds_zeros_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_UNPACKED", 1 << 20)
    (folder / "samples.jsonl").unlink()
    small = folder / "samples.jsonl.xz"
    small.write_bytes(lzma.compress(b"0" * (5 << 20)))
    assert "samples.jsonl.xz holds more than" in refused(lambda: read_samples(folder))
    assert "samples.jsonl.xz holds more than" in refused(
        lambda: read_lines(folder / "samples.jsonl"), UserError
    )


def test_a_packed_file_of_several_streams(tmp_path: Path) -> None:
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"one\n") + bytes(8) + lzma.compress(b"two\n"))
    assert files.content_of(tmp_path / "a") == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words: fast_dllm [0.9]", "plain words: fast_dllm [0.9]"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("two\nlines\r\u2028", "two\\nlines\\r\\u2028"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b2J", "\\x9b2J"),
        ("half \ud800", "half \\ud800"),
        ("größer ∎ 数", "größer ∎ 数"),
    ],
)
def test_text_is_shown_without_control(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_markup_of_a_console_and_of_a_page_is_text() -> None:
    assert in_console("[/red] [bold]x") == "\\[/red] \\[bold]x"
    assert in_markdown("<img src=x> | `a` *b* [c](d) _e_ $f$") == (
        "\\<img src=x> \\| \\`a\\` \\*b\\* [c\\](d) \\_e\\_ \\$f\\$"
    )
    assert in_markdown("fast_dllm cache=dual 1.5 [1.2, 1.8]") == "fast_dllm cache=dual 1.5 [1.2, 1.8]"
    assert as_code("a `b` c") == "``a `b` c``"
    assert as_code("a|b", cell=True) == "`a\\|b`"
