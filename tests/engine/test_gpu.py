"""On a GPU: decoders give the CPU's ids in float32, a run goes through from end to end, bfloat16 decodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.cli.cells import Asked, plan_cells
from harness.decoding.registry import load_method
from harness.engine.generator import Generator, Request
from harness.engine.loader import load
from harness.engine.opening import Weights
from harness.runs.cell import Options
from harness.runs.turns import run_cells
from suites.suite import load_suite

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"torch {torch.__version__} finds no CUDA device here"
    ),
]
DECODERS = [
    ("vanilla", {"tokens_per_step": 4}),
    ("d2f", {"block_size": 8}),
    ("fast_dllm", {"cache": "dual", "block_length": 8}),
]


def answers(method: str, settings: dict[str, object], device: str, dtype: str = "float32") -> list[list[int]]:
    decoder, suite = load_method(method).decoder, load_suite("nano-gsm")
    generator = Generator(load("nano", decoder.requires, device=device, dtype=dtype), decoder, settings)
    requests = [Request(suite.prompt(doc), 48, tuple(suite.stop)) for _, doc in suite.docs(4)]
    rows = [item.decoded for batch in generator.run(requests, 2) for item in batch]
    assert all(row is not None and row.audit_passed for row in rows)
    return [row.output for row in rows if row is not None]


@pytest.mark.parametrize(("method", "settings"), DECODERS, ids=[name for name, _ in DECODERS])
def test_ids_are_those_of_the_cpu(method: str, settings: dict[str, object]) -> None:
    assert answers(method, settings, "cuda") == answers(method, settings, "cpu")


@pytest.mark.parametrize(("method", "settings"), DECODERS, ids=[name for name, _ in DECODERS])
def test_bfloat16_decodes_the_same_twice(method: str, settings: dict[str, object]) -> None:
    assert answers(method, settings, "cuda", "bfloat16") == answers(method, settings, "cuda", "bfloat16")


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    asked = Asked(["vanilla", "fast_dllm", "d2f", "ar"], ["nano-gsm"], [], Weights("nano", device="cuda"))
    cells = list(plan_cells(asked, Options(tmp_path, limit=2), lambda _: None))
    run_cells(cells, None, lambda *_: None)
    for cell in cells:
        run = cell.folder.run
        cell.folder.close()
        assert (run.status, run.plan.dtype) == ("complete", "bfloat16")
        assert run.audit is not None
        assert run.audit.passed, run.audit
        assert run.summary is not None
        assert (run.summary.call_memory_bytes or 0) > 0
