"""Every parser of outside files under files that are changed at random: read, or refused in one line.

``make test`` tries a few per parser, always the same. Ten minutes over all of them, other ones every time:

    BENCH_FUZZ_SECONDS=600 pytest tests/records/test_fuzz.py -n 0
"""

from __future__ import annotations

import json
import lzma
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save

from harness.model import catalog
from harness.records.schema import read_run
from harness.records.submission import Submission, machine, row_of, write_folder
from tests.conftest import GOLDEN
from tests.fuzz import refused_or_read
from tests.model.test_gguf import _model, write
from tests.records.fuzz_cases import CASES, GRPO_CARD, GRPO_FOUND, GRPO_LOG, ROOT, SPEED
from tests.synthetic_runs import Fake, write_fake
from tests.tokenizers_tiny import DIFFUCODER, with_tokenizer

SECONDS = float(os.environ.get("BENCH_FUZZ_SECONDS", "0"))
TRIES = 12


@cache
def _prepared(root: Path) -> Path:
    """A folder with a valid file of everything."""
    model = with_tokenizer(root / "model", DIFFUCODER, eos_token="<|endoftext|>", add_bos_token=True)
    shutil.copytree(model, root / "valid")
    shutil.copytree(GOLDEN / "dream_lora_tiny", root / "adapter")
    shutil.copy(root / "adapter" / "adapter_config.json", root / "valid")
    write(root / "valid.gguf", _model()[1])
    (root / "valid.safetensors").write_bytes(
        save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int8)})
    )
    made = write_fake(root / "fake", Fake(documents=3))
    for store in ("runs", "packed"):
        shutil.copytree(made, root / store / "test-cpu" / "nano-gsm" / "one")
    lines = root / "packed" / "test-cpu" / "nano-gsm" / "one" / "samples.jsonl"
    (root / "valid.xz").write_bytes(lzma.compress(lines.read_bytes()))
    lines.unlink()
    shutil.copytree(ROOT / "results" / SPEED, root / SPEED)
    (root / "grpo").mkdir()
    (root / "grpo" / "card.json").write_text(json.dumps(GRPO_CARD))
    (root / "grpo" / "evaluation.json").write_text(json.dumps(GRPO_FOUND))
    (root / "grpo" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GRPO_LOG))
    _submitted(made, root / "submitted")
    return root


def _submitted(run_folder: Path, folder: Path) -> None:
    run = read_run(run_folder)
    run.run_id = "one"
    told = Submission(created=run.created, machine=machine(run), rows=[row_of(run)], files={})
    place = row_of(run).folder
    write_folder(folder, told, {place: (run_folder, run)})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _prepared(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("case", CASES)
def test_any_file_is_read_or_refused_in_one_line(root: Path, case: str) -> None:
    strategy, name, read = CASES[case]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    tried, ends = 0, time.monotonic() + SECONDS / len(CASES)
    files = strategy(root)

    def attempt(data: bytes) -> None:
        nonlocal tried
        tried += 1
        path.write_bytes(data)
        with refused_or_read():
            read(root)

    try:
        while tried == 0 or time.monotonic() < ends:
            _round(attempt, files, random.randrange(1 << 32) if SECONDS else None)
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
    if SECONDS:
        print(f"{case}: {tried} files")


def _round(attempt: Callable[[bytes], None], files: st.SearchStrategy[bytes], number: int | None) -> None:
    """Some files, always the same without a ``number``."""
    chosen = settings(
        max_examples=TRIES if number is None else 200,
        deadline=None,
        database=None,
        derandomize=number is None,
        phases=[Phase.generate] if number is None else [Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    tried = chosen(given(files)(attempt))
    (tried if number is None else seed(number)(tried))()


def test_a_fault_is_found() -> None:
    """The check itself: another error, and an error of two lines, are faults."""
    with pytest.raises(KeyError), refused_or_read():
        raise KeyError("a")
    with pytest.raises(AssertionError, match="no short line"), refused_or_read():
        raise catalog.CheckpointError("two\nlines")
