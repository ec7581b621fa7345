"""Cells (method x suite): decoded, graded and stored sample by sample."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from harness.decoding.registry import Method
from harness.decoding.settings import changed_settings, setting_text, settings_of
from harness.engine.generator import Generation, Generator, Request
from harness.engine.isolation.cost import overhead, record
from harness.measuring.audit import audit_run
from harness.measuring.environment import capture
from harness.measuring.protocol import PROTOCOLS, STEADY_RUNS, Protocol, bucket, determinism, variation
from harness.measuring.roofline import roofline_for, settled_share
from harness.model.presets import Preset
from harness.records.files import digest
from harness.records.schema import Audit, AuditCheck, Plan, Run, Sample
from harness.records.store import RunFolder, now
from harness.runs.fields import measured
from harness.runs.plan import comparability, make_plan, prompting, run_id
from harness.runs.suite import Suite
from harness.statistics.summary import summarise

log = logging.getLogger(__name__)

Key = tuple[int, int]

STREAM = 4
"""Prompts of a decode call per row that it decodes at once, with continuous batching (docs/log.md)."""


@dataclass(frozen=True)
class Item:
    """One document of a suite, rendered."""

    doc_id: int
    doc: dict[str, Any]
    prompt: str


@dataclass
class Options:
    """What applies to every cell of an invocation."""

    output_path: Path
    batch_size: int = 1
    repeats: int = 1
    limit: int | None = None
    fresh: bool = False
    protocol: Protocol = PROTOCOLS["quick"]
    continuous: bool = False

    @property
    def rows(self) -> int:
        """Prompts of one decode call."""
        return self.batch_size * (STREAM if self.continuous else 1)


@dataclass
class Cell:
    """One (method, settings, suite): its generator, documents and run folder.

    ``weights_seen``: whether the harness holds the weights and can tell that they stay as they are.
    """

    weights_seen: ClassVar[bool] = True

    generator: Generator
    method: Method
    suite: Suite
    items: Sequence[Item]
    options: Options
    preset: Preset | None = None
    folder: RunFolder = field(init=False)

    def __post_init__(self) -> None:
        if self.options.continuous:
            self.generator.check_continuous()
        self.canvas = self.generator.canvas(self.suite.canvas, self.suite.blocks)
        self.keys = self.options.protocol.keys(
            [item.doc_id for item in self.items], self.options.repeats, self.options.rows
        )
        self.folder = RunFolder(self.options.output_path, self._run(), self.options.fresh)
        try:
            self.folder.expect(self.keys, {item.doc_id: digest(item.prompt) for item in self.items})
        except BaseException:
            self.folder.close()
            raise
        if self.pending and self.method.isolated:
            self.folder.run.isolation = record(self.generator.decoder, self.generator.loaded.spec)
        self.started = time.perf_counter()

    def _run(self) -> Run:
        loaded, options = self.generator.loaded, self.options
        plan = make_plan(
            loaded,
            self.method,
            self.generator,
            suite=self.suite.name,
            prompts=[item.prompt for item in self.items],
            limit=options.limit,
            canvas=self.canvas,
            blocks=self.suite.blocks,
            batch_size=options.batch_size,
            repeats=options.repeats,
            rendering=self.suite.rendering,
            stops=self.suite.stop,
        )
        plan.protocol = options.protocol.name
        plan.stream = options.rows if options.continuous else 0
        plan = self.told(plan)
        shared = comparability(plan)
        return Run(
            run_id=run_id(plan),
            created=now(),
            command=shlex.join(["bench", *sys.argv[1:]]),
            plan=plan,
            changed=changed_settings(self.generator.config),
            comparability_key=digest(shared),
            comparability=shared,
            environment=capture(loaded.held.device),
            prompting=prompting(loaded, self.suite.rendering),
            preset=None
            if self.preset is None
            else self.preset.record(settings_of(self.generator.config), self.suite.rendering.told()),
            expected=len(self.keys),
            **(self._of_weights() if loaded.held.in_memory else {}),
        )

    def told(self, plan: Plan) -> Plan:
        """The plan as it is recorded."""
        return plan

    def _of_weights(self) -> dict[str, Any]:
        """What the record says of weights in memory."""
        loaded = self.generator.loaded
        return {
            "load_s": loaded.load_s + loaded.held.load_s,
            "weights_bytes": loaded.held.size,
            "roofline": roofline_for(loaded.backbone).record(),
        }

    def begin(self) -> None:
        """Load the weights if they are not there, and record what can be told of them only then."""
        run = self.folder.run
        self.generator.loaded.held.get()
        if run.roofline is None and run.weights_bytes is None:
            for name, value in self._of_weights().items():
                setattr(run, name, value)
            self.folder.save()

    @property
    def label(self) -> str:
        """Suite, method and the settings that differ from the defaults, for progress lines."""
        changed = self.folder.run.changed or {}
        return " ".join(
            [
                f"{self.suite.name:<10} {self.method.name}",
                *(setting_text(key, value) for key, value in changed.items()),
            ]
        )

    @property
    def pending(self) -> list[Key]:
        return [] if self.folder.complete else self.folder.missing(self.keys)

    def chunks(self) -> Iterator[list[Key]]:
        """Missing samples, in batches of the same documents in every pass and from run to run."""
        size, missing = self.options.rows, set(self.pending)
        place = {item.doc_id: index // size for index, item in enumerate(self.items)}
        for _, keys in groupby(self.keys, key=lambda key: (key[1], place[key[0]])):
            chunk = [key for key in keys if key in missing]
            if chunk:
                yield chunk

    def shape(self, chunk: Sequence[Key]) -> tuple[int, int]:
        """(rows, longest prompt in tokens rounded up to a power of two): batches of one shape are warmed up
        together.
        """
        prompts = {item.doc_id: item.prompt for item in self.items}
        return len(chunk), max(bucket(len(self.generator.prompt_ids(prompts[doc_id]))) for doc_id, _ in chunk)

    def warm_up(self) -> None:
        """Unrecorded answers to the first batch of each shape that will run, until the protocol calls it
        warm.

        So lazy initialisation is outside every clock, that of ragged batches and their masks included.
        """
        first: dict[tuple[int, int], list[Key]] = {}
        for chunk in self.chunks():
            first.setdefault(self.shape(chunk), chunk)
        protocol = self.options.protocol
        done: dict[str, Any] = {}
        for (rows, prompt), chunk in sorted(first.items()):
            times = self._warm(chunk)
            steady = round(variation(times[-STEADY_RUNS:]), 4) if len(times) > 1 else None
            done[f"prompt<={prompt}" + (f", {rows} rows" if rows > 1 else "")] = {
                "runs": len(times),
                "variation": steady,
            }
        if done:
            self.note(name=protocol.name, passes=protocol.passes, warm_up=done)

    def note(self, **facts: Any) -> None:
        """Add to what the run records of how it was made."""
        self.folder.run.protocol = {**(self.folder.run.protocol or {}), **facts}

    def _warm(self, chunk: Sequence[Key]) -> list[float]:
        """Seconds of each warm-up run of one batch; ends early if it cannot be decoded at all."""
        items, times = {item.doc_id: item for item in self.items}, list[float]()
        requests = [self._request(items[doc_id], repeat) for doc_id, repeat in chunk]
        while not self.options.protocol.warm(times):
            rows = [
                generation.row
                for batch in self.generator.run(requests, len(requests), self.options.batch_size)
                for generation in batch
            ]
            if any(row is None for row in rows):
                break
            times.append(sum(row.time_s or 0.0 for row in rows if row is not None))
        return times

    def step(self, chunk: Sequence[Key], jail: Any) -> None:
        """Decode, grade and store one batch."""
        items = {item.doc_id: item for item in self.items}
        requests = [self._request(items[doc_id], repeat) for doc_id, repeat in chunk]
        keys, left = iter(chunk), 0
        number = self.folder.next_batch - 1
        for batch in self.generator.run(requests, self.options.rows, self.options.batch_size):
            for generation in batch:
                # Rows that did not fit together were decoded one by one, each by its own clock.
                if left == 0:
                    number, left = number + 1, (generation.row.rows or 1) if generation.row else 1
                left -= 1
                if generation.decoded is not None:
                    run = self.folder.run
                    run.kernels = sorted({*(run.kernels or []), *generation.decoded.kernels})
                doc_id, repeat = next(keys)
                self.folder.append(self._sample(items[doc_id], repeat, generation, number, jail))

    def _request(self, item: Item, repeat: int) -> Request:
        return Request(
            item.prompt, self.canvas, tuple(self.suite.stop), repeat=repeat, blocks=self.suite.blocks
        )

    def _sample(self, item: Item, repeat: int, generation: Generation, batch: int, jail: Any) -> Sample:
        row = generation.row
        grade = self.suite.grade(item.doc, generation.text, jail) if generation.text is not None else None
        return Sample(
            run_id=self.folder.run.run_id,
            suite=self.suite.name,
            method=self.method.name,
            doc_id=item.doc_id,
            prompt_hash=digest(item.prompt),
            template=self.suite.rendering.template,
            repeat=repeat,
            order=len(self.folder.samples),
            batch=batch,
            prompt_tokens=len(generation.prompt_ids),
            text=generation.text,
            program=grade.program if grade and self.suite.embedded else None,
            answer=grade.answer if grade else None,
            correct=grade.correct if grade else False,
            grading=grade.grading if grade else "not_run",  # pyright: ignore[reportArgumentType]
            useful=generation.useful,
            block_useful=generation.block_useful,
            status=generation.status,
            error=generation.error,
            **(
                measured(row, self.generator.loaded.tokenizer)
                | ({"time_s": generation.spent_s, "rows": 1} if row is None else {})
            ),
        )

    def finish(self, more: Sequence[AuditCheck] = ()) -> None:
        """Write summary, audit (with ``more`` checks) and status once every sample is there."""
        run = self.folder.run
        if self.folder.complete:
            return
        samples = self.folder.ordered()
        run.wall_s = (run.wall_s or 0.0) + time.perf_counter() - self.started
        share = self.roof_share(samples)
        run.summary = summarise(samples).model_copy(update={"roof_share": share})
        run.protocol = {
            "name": self.options.protocol.name,
            **(run.protocol or {}),
            "determinism": determinism(samples),
        }
        run.audit = self.audit(samples, share, more)
        if run.isolation is not None:
            run.isolation["share"] = overhead(run.isolation, samples)
        if not self.folder.missing(self.keys):
            run.status, run.finished = "complete", now()
        self.folder.save()

    def roof_share(self, samples: Sequence[Sample]) -> float | None:
        """The run's speed as a share of what the hardware allows; None: unknown."""
        return settled_share(
            self.folder.run, samples, lambda: roofline_for(self.generator.loaded.backbone, fresh=True)
        )

    def audit(self, samples: Sequence[Sample], share: float | None, more: Sequence[AuditCheck]) -> Audit:
        """The verdict over all samples."""
        greedy = not self.folder.run.plan.settings.get("temperature")
        return audit_run(samples, share, greedy=greedy, more=more)


def render(suite: Suite, limit: int | None) -> list[Item]:
    """The documents of a run with their exact prompts."""
    return [Item(doc_id, doc, suite.prompt(doc)) for doc_id, doc in suite.docs(limit)]
