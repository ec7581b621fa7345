"""What a run does around its samples: warm-up of the shapes to come, memory of each method, who is interleaved with whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.decoding.registry import load_method
from harness.engine.generator import Generator, Request
from harness.engine.loader import load
from harness.measuring import memory
from harness.measuring.clock import decode
from harness.runs import cell as runs
from harness.runs.cell import Cell, Options, render, run_cells
from methods.base import Forward
from methods.vanilla import Vanilla
from suites.suite import load_suite
from tests.helpers import backbone

MIB = 1 << 20


def cell_of(root: Path, name: str, batch_size: int = 1, limit: int = 6, **settings: Any) -> Cell:
    method, suite = load_method(name), load_suite("nano-gsm")
    generator = Generator(
        load("nano", method.decoder.requires), method.decoder, {**({"tokens_per_step": 24} if name == "vanilla" else {}), **settings}
    )
    return Cell(generator, method, suite, render(suite, limit), Options(root, batch_size, limit=limit))


def test_warm_up_runs_the_batches_that_will_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_of(tmp_path, "vanilla", batch_size=3, limit=7)
    asked: list[list[Request]] = []
    real = cell.generator.run
    monkeypatch.setattr(cell.generator, "run", lambda requests, size: asked.append(list(requests)) or real(requests, size))
    cell.warm_up()
    prompts = [[request.prompt for request in batch] for batch in asked]
    wanted = [[item.prompt for item in cell.items[start : start + 3]] for start in (0, 3, 6)]
    assert prompts, "something is warmed"
    assert all(batch in wanted for batch in prompts)
    shapes = {cell.shape(chunk) for chunk in cell.chunks()}
    assert {(len(batch), cell.shape([(item.doc_id, 0) for item in cell.items if item.prompt in batch])[1]) for batch in prompts} == shapes
    cell.folder.close()


class Hungry(Vanilla):
    """Vanilla that holds 64 MiB of its own while it decodes."""

    def decode_row(self, row: Any, spec: Any, config: Any) -> Any:
        held = torch.ones(16 * MIB)
        yield Forward((0, row.length), row.masked())
        at = row.masked()
        row.commit(at, [5 + int(held[0])] * len(at), [1.0] * len(at))


def test_memory_is_counted_above_the_level_at_the_start_of_each_call() -> None:
    model = backbone("dream_tiny")
    if memory.level(model.device) is None:
        pytest.skip("this system tells no resident memory")
    ballast = torch.ones(64 * MIB)
    decoders: tuple[Any, ...] = (Vanilla(), Hungry())
    plain, hungry = (decode(model, decoder, decoder.Config(tokens_per_step=8), [[5, 6, 7]], 8)[0] for decoder in decoders)
    assert plain.call_memory_bytes is not None
    assert hungry.call_memory_bytes is not None
    assert plain.call_memory_bytes < 32 * MIB < 60 * MIB < hungry.call_memory_bytes < 128 * MIB
    assert len(ballast)


def test_large_models_interleave_what_shares_weights_and_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "INTERLEAVE_BELOW", 0)
    cells = [
        cell_of(tmp_path, "vanilla", limit=2),
        cell_of(tmp_path, "vanilla", limit=2, alg="entropy"),
        cell_of(tmp_path / "b", "ar", limit=2),
    ]
    order: list[int] = []
    run_cells(cells, None, lambda cell, _: order.append(cells.index(cell)))
    assert order == [0, 1, 1, 0, 2, 2], "one set of weights serves the first two"
    told = [cell.folder.run.protocol or {} for cell in cells]
    ids = [cell.folder.run.run_id for cell in cells]
    assert [entry["interleaved_with"] for entry in told] == [[ids[1]], [ids[0]], []]
    assert [entry["weights_shared"] for entry in told] == [True, True, False]
    assert all((cell.folder.run.weights_bytes or 0) > MIB for cell in cells)
    for cell in cells:
        cell.folder.close()
