"""A run killed while an answer is being executed loses nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from harness.records.schema import find_runs, read_samples
from tests.commands import answers, bench, started
from tests.helpers import wait_until

ENDLESS = """
from pathlib import Path

from tokenizers import Tokenizer

import methods.models
from methods.base import Forward, RowDecoder

NANO = Path(methods.models.__path__[0]) / "nano" / "tokenizer.json"
IDS = Tokenizer.from_file(str(NANO)).encode("    while True:\\n        pass").ids

class Endless(RowDecoder):
    name = "endless"
    summary = "always answers with an endless loop"

    def decode_row(self, row, spec, config):
        at = row.masked()
        yield Forward(feed=(0, row.length), at=at)
        row.commit(at, (IDS + [spec.eos_ids[0]] * len(at))[: len(at)], [1.0] * len(at))

METHOD = Endless()
"""


def test_run_killed_while_grading_continues(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [
        "run",
        "--no-isolate",
        "--method",
        tmp_path / "endless.py",
        "--suite",
        "nano-code",
        "--limit",
        "2",
        "-o",
    ]
    folder = tmp_path / "killed"
    process = started(*command, folder)
    wait_until(lambda: any(map(read_samples, find_runs(folder))), process)
    time.sleep(1.0)
    assert process.poll() is None, "the second answer is being executed now"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [len(read_samples(run)) for run in find_runs(folder)] == [1]
    done = bench(*command, folder)
    assert done.returncode == 0, done.stderr
    assert [(row["doc_id"], row["grading"]) for row in answers(folder)] == [(0, "timeout"), (1, "timeout")]
