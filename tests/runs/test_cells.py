"""What a run does around its samples: warm-up of the shapes to come, memory of each method, who is
interleaved with whom.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.cells import Asked, plan_cells
from harness.decoding.registry import load_method
from harness.engine import loader
from harness.engine.generator import Generator, Request
from harness.engine.held import Held
from harness.engine.loader import load
from harness.engine.opening import Weights
from harness.measuring import memory
from harness.measuring.clock import decode
from harness.runs.cell import Cell, Options, render
from harness.runs.memory_plan import plan_memory
from harness.runs.turns import run_cells
from methods.base import Forward
from methods.vanilla import Vanilla
from suites.suite import load_suite
from tests.helpers import backbone

MIB = 1 << 20


def cell_of(root: Path, name: str, batch_size: int = 1, limit: int = 6, **settings: Any) -> Cell:
    method, suite = load_method(name), load_suite("nano-gsm")
    generator = Generator(
        load("nano", method.decoder.requires),
        method.decoder,
        {**({"tokens_per_step": 24} if name == "vanilla" else {}), **settings},
    )
    return Cell(generator, method, suite, render(suite, limit), Options(root, batch_size, limit=limit))


def test_warm_up_runs_the_batches_that_will_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(tmp_path, "vanilla", batch_size=3, limit=7)
    asked: list[list[Request]] = []
    real = cell.generator.run
    monkeypatch.setattr(
        cell.generator, "run", lambda requests, *sizes: asked.append(list(requests)) or real(requests, *sizes)
    )
    cell.warm_up()
    prompts = [[request.prompt for request in batch] for batch in asked]
    wanted = [[item.prompt for item in cell.items[start : start + 3]] for start in (0, 3, 6)]
    assert prompts, "something is warmed"
    assert all(batch in wanted for batch in prompts)
    shapes = {cell.shape(chunk) for chunk in cell.chunks()}
    assert {
        (len(batch), cell.shape([(item.doc_id, 0) for item in cell.items if item.prompt in batch])[1])
        for batch in prompts
    } == shapes
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
    gc.collect()  # what an earlier test left, freed during a call, would hide what the call takes
    ballast = torch.ones(64 * MIB)
    decoders: tuple[Any, ...] = (Vanilla(), Hungry())
    plain, hungry = (
        decode(model, decoder, decoder.Config(tokens_per_step=8), [[5, 6, 7]], 8)[0] for decoder in decoders
    )
    assert plain.call_memory_bytes is not None
    assert hungry.call_memory_bytes is not None
    assert plain.call_memory_bytes < 32 * MIB < 60 * MIB < hungry.call_memory_bytes < 128 * MIB
    assert len(ballast)


def three(root: Path, limit: int = 2) -> list[Cell]:
    """Two methods on one set of weights, one on another."""
    return [
        cell_of(root, "vanilla", limit=limit),
        cell_of(root, "vanilla", limit=limit, alg="entropy"),
        cell_of(root / "b", "ar", limit=limit),
    ]


def ran(cells: list[Cell]) -> tuple[list[int], list[str]]:
    order, said = [], []
    run_cells(cells, None, lambda cell, _: order.append(cells.index(cell)), said.append)
    for cell in cells:
        cell.folder.close()
    return order, said


def test_all_weights_that_fit_are_interleaved_whatever_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = three(tmp_path)
    need = sum({id(cell.generator.loaded.held): cell.generator.loaded.held.size for cell in cells}.values())
    monkeypatch.setattr(memory, "free", lambda _: int(need * 0.2) + 1)  # beside what is in memory
    order, said = ran(cells)
    assert (order, said) == ([0, 1, 2, 2, 1, 0], [])
    told = [(cell.folder.run.protocol or {})["memory"] for cell in cells]
    assert told == [{"weights": "together", "bytes": need, "free_bytes": need + int(need * 0.2) + 1}] * 3
    assert all(cell.generator.loaded.held.in_memory for cell in cells)


def test_weights_that_do_not_fit_are_loaded_in_turn_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = three(tmp_path)
    diffusion, causal = cells[0].generator.loaded.held, cells[2].generator.loaded.held
    assert cells[1].generator.loaded.held is diffusion, "one copy for both"
    monkeypatch.setattr(memory, "free", lambda _: 0)
    there: list[tuple[bool, bool]] = []
    monkeypatch.setattr(Cell, "warm_up", lambda cell: there.append((diffusion.in_memory, causal.in_memory)))
    order, said = ran(cells)
    assert order == [0, 1, 1, 0, 2, 2], "one set of weights serves the first two"
    assert there == [(True, False), (True, False), (False, True)], "never both"
    assert (diffusion.in_memory, causal.in_memory) == (False, False)
    assert len(said) == 1
    assert "loaded in turn, and only methods whose weights are in memory together are interleaved" in said[0]
    told = [cell.folder.run.protocol or {} for cell in cells]
    ids = [cell.folder.run.run_id for cell in cells]
    assert [entry["interleaved_with"] for entry in told] == [[ids[1]], [ids[0]], []]
    assert [entry["weights_shared"] for entry in told] == [True, True, False]
    assert {entry["memory"]["weights"] for entry in told} == {"in turn"}
    assert all((cell.folder.run.weights_bytes or 0) > MIB for cell in cells)


def test_nothing_is_loaded_before_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader._held.cache_clear()
    monkeypatch.setattr(memory, "free", lambda _: 0)
    asked = Asked(["vanilla", "ar"], ["nano-gsm"], ["max_new_tokens=4"], Weights("nano"))
    cells = list(plan_cells(asked, Options(tmp_path, limit=1), lambda _: None))
    weights = [cell.generator.loaded.held for cell in cells]
    assert not any(held.in_memory for held in weights)
    assert [cell.folder.run.weights_bytes for cell in cells] == [None, None]
    sizes = [held.size for held in weights]
    ran(cells)
    assert [cell.folder.run.weights_bytes for cell in cells] == pytest.approx(sizes, rel=0.05), (
        "told from the files' headers alone"
    )
    assert [cell.folder.run.status for cell in cells] == ["complete", "complete"]
    assert all(cell.folder.run.roofline and cell.folder.run.load_s for cell in cells)
    assert not any(held.in_memory for held in weights)
    again = list(plan_cells(asked, Options(tmp_path, limit=1), lambda _: None))
    ran(again)
    assert not any(cell.generator.loaded.held.in_memory for cell in again), "a finished run loads nothing"


def test_as_many_weights_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [Held.ready(backbone(name)) for name in ("dream_tiny", "llada_tiny", "dream_wide_tiny")]
    for held in weights:
        monkeypatch.setattr(held, "_backbone", None)
        monkeypatch.setattr(held, "_size", lambda: 100)
    for free, sizes in ((0, [1, 1, 1]), (239, [1, 1, 1]), (240, [2, 1]), (359, [2, 1]), (360, [3])):
        monkeypatch.setattr(memory, "free", lambda _, free=free: free)
        assert [len(one) for one in plan_memory([*weights, weights[0]]).packs] == sizes
