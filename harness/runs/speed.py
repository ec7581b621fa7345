"""Speed tables: which cells there are, visited in turn, stored visit by visit, continued after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch

from harness.decoding.backbone import Backbone
from harness.decoding.kernels import choice_name, implementation
from harness.measuring.environment import capture, device_name, git_state
from harness.measuring.protocol import interleaved
from harness.measuring.roofline import RETRIES, Roofline, roofline_for
from harness.measuring.speed import (
    WARM_UP,
    Cell,
    Visit,
    check_memory,
    mask_of,
    random_backbone,
    roof_of,
    visit_cell,
    visit_replay,
)
from harness.measuring.windows import Script, chosen, scripts, windows_hash, with_prompt
from harness.model.compiled import check_compiler, compile_layers
from harness.model.shapes import shape_spec
from harness.model.spec import ModelSpec
from harness.records.evidence import read_evidence
from harness.records.schema import Run, Sample, read_run
from harness.records.speed import HEADER, Key, Replayed, SpeedFolder, SpeedPlan, SpeedRun, Timing, read_speed
from harness.records.store import now


@dataclass(frozen=True)
class Asked:
    """What a table is asked for: see the flags of ``bench speed``. ``replays``: run folders; none: a grid."""

    shape: str
    layers: int | None
    dtype: torch.dtype
    device: torch.device
    rows: list[int]
    query: list[int]
    cached: list[int]
    logits: int = 32
    block_size: int | None = None
    rounds: int = 3
    repeats: int = 5
    replays: list[Path] = field(default_factory=list)
    answers: int = 8
    prompt_tokens: int | None = None
    attention: str = "auto"
    compiled: bool = False


class Unit(Protocol):
    """One cell or one replayed run at one number of rows."""

    @property
    def batches(self) -> Sequence[Sequence[Script]]: ...

    def visit(self, backbone: Backbone, plan: SpeedPlan) -> Visit: ...

    def counts(self) -> dict[str, int]:
        """Answers, forward passes and useful tokens of a replay."""
        ...


@dataclass
class CellUnit:
    cell: Cell

    @property
    def batches(self) -> Sequence[Sequence[Script]]:
        return [self.cell.batch]

    def visit(self, backbone: Backbone, plan: SpeedPlan) -> Visit:
        return visit_cell(backbone, self.cell, plan.repeats, plan.warm_up, mask_of(plan.block_size))

    def counts(self) -> dict[str, int]:
        return {}


@dataclass
class ReplayUnit:
    batches: Sequence[Sequence[Script]]
    prompts: Sequence[Sequence[int]]
    useful: int

    def visit(self, backbone: Backbone, plan: SpeedPlan) -> Visit:
        return visit_replay(backbone, self.batches, self.prompts, mask_of(plan.block_size))

    def counts(self) -> dict[str, int]:
        lengths = [len(script) for batch in self.batches for script in batch]
        return {"answers": len(lengths), "nfe": sum(lengths), "useful": self.useful}


class Table:
    """One speed table: planned at once, measured by ``run``."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.spec = asked, shape_spec(asked.shape, asked.layers)
        self.kernel = implementation(asked.attention, asked.device, asked.dtype, asked.compiled)
        if asked.compiled:
            check_compiler(asked.device)
        self.units: dict[Key, Unit] = {}
        replays = [] if not asked.replays else self._replays()
        self.plan = _plan(asked, self.spec, replays, choice_name(self.kernel))
        if not replays:
            for rows, query, cached, _, turn in self.plan.visits():
                assert query is not None
                assert cached is not None
                self.units[rows, query, cached, None, turn] = CellUnit(
                    Cell(rows, query, cached, min(query, asked.logits))
                )

    def _replays(self) -> list[Replayed]:
        asked, told = self.asked, []
        for folder in asked.replays:
            run = read_run(folder)
            samples = chosen(run, read_evidence(folder, run), asked.answers, asked.rows)
            if asked.prompt_tokens is not None:
                samples = with_prompt(samples, asked.prompt_tokens)
            found = scripts(samples, run.plan.max_new_tokens, asked.logits)
            told.append(_told(run, found))
            for rows in asked.rows:
                unit = _batched(samples, found, rows)
                for turn in range(asked.rounds):
                    self.units[rows, None, None, run.run_id, turn] = unit
        return told

    def check_memory(self) -> None:
        """SpeedError if the table does not fit the device."""
        batches = [batch for unit in self.units.values() for batch in unit.batches]
        check_memory(self.spec, self.asked.dtype, self.asked.device, batches)

    def stored(self, root: Path) -> bool:
        """Whether the whole table is there already."""
        folder = root / self.plan.device_name / self.plan.id
        return (folder / HEADER).exists() and read_speed(folder)[0].status == "complete"

    def open(self, root: Path, backbone: Backbone, fresh: bool) -> SpeedFolder:
        """The table's folder, new or continued."""
        run = SpeedRun(
            id=self.plan.id,
            created=now(),
            plan=self.plan,
            environment=capture(self.asked.device),
            roofline=roofline_for(backbone).record(),
        )
        return SpeedFolder(root, run, fresh)

    def load(self) -> Backbone:
        """The model; checks the memory before it is allocated."""
        self.check_memory()
        backbone = random_backbone(self.spec, self.asked.dtype, self.asked.device, self.kernel)
        if self.asked.compiled:
            compile_layers(backbone._model, self.asked.device)
        return backbone

    def measure(self, folder: SpeedFolder, backbone: Backbone, progress: Callable[[], None]) -> None:
        """Visit what is missing, A B B A over all cells; then settle the roof and finish."""
        for key in self.order(folder.missing()):
            unit = self.units[key]
            visit = unit.visit(backbone, self.plan)
            roof = roof_of(Roofline.from_record(folder.run.roofline), unit.batches)
            folder.append(_timing(key, visit, roof, unit.counts()))
            progress()
        self._settle(folder, backbone)
        folder.run.status, folder.run.finished = "complete", now()
        folder.save()

    def order(self, missing: Sequence[Key]) -> list[Key]:
        """The missing visits, every second round from the last cell to the first."""
        keys, wanted = self.plan.visits(), set(missing)
        rounds = [list(group) for _, group in groupby(keys, key=itemgetter(4))]
        cells = len(rounds[0])
        turns = interleaved([len(rounds)] * cells)
        return [key for place, turn in turns if (key := rounds[turn][place]) in wanted]

    def _settle(self, folder: SpeedFolder, backbone: Backbone) -> None:
        """While a visit beats the roof, the device is measured again, up to RETRIES times; all lines get the
        better roof.
        """
        run = folder.run
        while beaten := [key for key, timing in folder.timings.items() if share(timing) > 1]:
            again = run.roofline.get("again", [])
            if len(again) >= RETRIES:
                return
            best = max(share(folder.timings[key]) for key in beaten)
            found = roofline_for(backbone, fresh=True).hardware
            better = Roofline.from_record(run.roofline).at_best(found)
            run.roofline = {**better.record(), "again": [*again, {**asdict(found), "share_before": best}]}
            folder.save()
            folder.rewrite(
                [
                    timing.model_copy(update={"roof_s": roof_of(better, self.units[key].batches)})
                    for key, timing in folder.timings.items()
                ]
            )


def share(timing: Timing) -> float:
    """Share of the roof that one visit reached: of its median call, or of the whole replay."""
    if timing.answers is not None:
        return timing.roof_s / sum(timing.times_s)
    return timing.roof_s / median(timing.times_s)


def _timing(key: Key, visit: Visit, roof: float, counts: dict[str, Any]) -> Timing:
    rows, query, cached, run_id, turn = key
    return Timing(
        rows=rows,
        query=query,
        cached=cached,
        run_id=run_id,
        round=turn,
        times_s=visit.times_s,
        roof_s=roof,
        kernels=visit.kernels,
        processor_s=visit.processor_s,
        peak_memory_bytes=visit.peak_memory_bytes,
        **counts,
    )


def _batched(samples: Sequence[Sample], found: Sequence[Script], rows: int) -> ReplayUnit:
    """Answers in whole batches of ``rows``; those that fill none are left out."""
    starts = range(0, len(found) - rows + 1, rows)
    return ReplayUnit(
        [found[start : start + rows] for start in starts],
        [[sample.prompt_tokens for sample in samples[start : start + rows]] for start in starts],
        sum(sample.useful or 0 for start in starts for sample in samples[start : start + rows]),
    )


def _told(run: Run, found: Sequence[Script]) -> Replayed:
    return Replayed(
        run_id=run.run_id,
        method=run.plan.method,
        suite=run.plan.suite,
        changed=run.changed or {},
        model=run.plan.model,
        windows=windows_hash(found),
    )


def _plan(asked: Asked, spec: ModelSpec, replays: list[Replayed], attention: str) -> SpeedPlan:
    on_cpu = asked.device.type == "cpu"
    grid = {"query": asked.query, "cached": asked.cached} if not replays else {}
    replayed = (
        {"replays": replays, "answers": asked.answers, "prompt_tokens": asked.prompt_tokens}
        if replays
        else {}
    )
    return SpeedPlan(
        kind="replay" if replays else "forward",
        shape=asked.shape,
        layers=spec.num_layers,
        of_layers=shape_spec(asked.shape).num_layers,
        dtype=str(asked.dtype).removeprefix("torch."),
        attention=attention,
        compiled=asked.compiled,
        block_size=asked.block_size,
        logits=asked.logits,
        device=str(asked.device),
        device_name=device_name(asked.device),
        threads=torch.get_num_threads() if on_cpu else None,
        cores=len(os.sched_getaffinity(0)) if on_cpu and hasattr(os, "sched_getaffinity") else None,
        torch=torch.__version__,
        commit=git_state()["commit"],
        rounds=asked.rounds,
        warm_up=WARM_UP if not replays else 1,
        repeats=asked.repeats if not replays else 1,
        rows=asked.rows,
        **grid,
        **replayed,
    )
