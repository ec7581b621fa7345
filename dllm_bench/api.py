"""Load a method on a model, decode prompts, run suites, compare runs, register methods and families of one's
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.cli.cells import Asked, plan_cells
from harness.decoding.decoder import Decoder, RowDecoder
from harness.decoding.registry import register_method
from harness.engine.generator import Generation, Request
from harness.engine.opening import Opened, Weights, open_engine
from harness.measuring.protocol import protocol as find_protocol
from harness.model.family import Family
from harness.model.recognise import register_family
from harness.records.schema import StopRule
from harness.runs.cell import Options
from harness.runs.turns import run_cells
from harness.sandbox import open_jail
from harness.statistics.verdict import Verdict
from reports.cli.report import verdicts
from reports.load import StoredRun, read_stored


def load(
    method: str = "vanilla",
    model: str = "nano",
    *,
    settings: Mapping[str, Any] | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    family: str | None = None,
    seed: int = 0,
    stop_rule: StopRule = "harness",
    isolate: bool | None = None,
) -> Opened:
    """A method on a model, ready to answer; the arguments are those of ``bench run``.

    ``method``: a name, a file such as ./mine.py, or either with settings behind a colon. Raises MethodError,
    CheckpointError or SettingError (all of them UserError), naming what to change.
    """
    weights = Weights(model, adapter, dtype=dtype, device=device, family=family)
    return open_engine(method, weights, settings, seed=seed, stop_rule=stop_rule, isolate=isolate)


def decode(
    engine: Opened,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 1,
    stops: Sequence[str] = (),
) -> list[Generation]:
    """Answers to ``prompts`` (texts or ids) in their order: text, ids, counts and times of each.

    ``max_new_tokens``: length of the canvas, default the setting's or the model's own; ``stops``: texts at
    which an answer ends.
    """
    canvas = max_new_tokens or engine.generator.canvas()
    requests = [Request(prompt, canvas, tuple(stops)) for prompt in prompts]
    return [answer for batch in engine.generator.run(requests, batch_size) for answer in batch]


def run(
    methods: str | Sequence[str],
    suites: str | Sequence[str],
    model: str = "nano",
    *,
    limit: int | None = None,
    output: str | Path = "runs",
    settings: Mapping[str, Any] | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    family: str | None = None,
    batch_size: int = 1,
    repeats: int = 1,
    seed: int = 0,
    protocol: str = "quick",
    stop_rule: StopRule = "harness",
    fresh: bool = False,
    isolate: bool | None = None,
    allow_unsafe_code: bool = False,
) -> list[StoredRun]:
    """Decode, measure, grade and store suites, as ``bench run`` does; the runs, suite by suite and method by
    method.

    A finished run is read and not repeated unless ``fresh``; an interrupted one continues with the missing
    samples.
    """
    weights = Weights(model, adapter, dtype=dtype, device=device, family=family)
    pairs = [f"{key}={value}" for key, value in (settings or {}).items()]
    asked = Asked(_listed(methods), _listed(suites), pairs, weights, seed, stop_rule, isolate=isolate)
    options = Options(Path(output), batch_size, repeats, limit, fresh, protocol=find_protocol(protocol))
    with ExitStack() as stack:
        cells = []
        for cell in plan_cells(asked, options, lambda line: None):
            stack.callback(cell.folder.close)
            cells.append(cell)
        code = any(cell.suite.needs_code for cell in cells if cell.pending)
        jail = stack.enter_context(open_jail(allow_unsafe=allow_unsafe_code)) if code else None
        run_cells(cells, jail, lambda cell, count: None)
        return [read_stored(cell.folder.path) for cell in cells]


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def compare(
    baseline: StoredRun | str | Path,
    *others: StoredRun | str | Path,
    margin: float = 3.0,
    across: bool = False,
) -> list[Verdict]:
    """Each of ``others`` against the baseline, problem by problem: paired speed-up, difference of pass@1, the
    verdict at ``margin``.

    Runs as ``run`` returns them, or their folders; ``margin`` in percentage points; p-values are
    Holm-adjusted over the others. ReportOptionError (a UserError) for runs under different configurations,
    unless ``across``.
    """
    first, *rest = (
        one if isinstance(one, StoredRun) else read_stored(Path(one)) for one in (baseline, *others)
    )
    return verdicts(first, rest, margin, across)


def register(thing: Decoder | RowDecoder | Family) -> None:
    """Make a decoder or a family of models known in this process, by its name; one of the same name gives
    way.

    A decoder so registered runs in this process, and its runs say that it was not isolated; one in a file
    runs in a jail.
    """
    if isinstance(thing, Family):
        register_family(thing)
    else:
        register_method(thing)
