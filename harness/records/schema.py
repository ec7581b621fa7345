"""The stored truth of a run: ``run.json`` and one line of ``samples.jsonl`` (packed: ``samples.jsonl.xz``)
per finished sample.

Unknown is null, never 0. Reports read these records and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from harness.errors import UserError
from harness.records.files import PackedError, whole_lines, write_atomic
from harness.records.outside import brief, parse_json, read_text, reason

SCHEMA_VERSION = 1

StopRule = Literal["harness", "reference"]
Status = Literal["ok", "timeout", "oom", "error", "audit_failed"]
Grading = Literal["passed", "failed", "timeout", "memory", "crashed", "not_run"]


NOT_MEASURED = "not measured by the harness: the engine decodes by itself"
"""What is said of forwards, positions and step maps of an engine's run, and of the checks that need them."""
ADVICE = "move the folder away or use --fresh"
_UNUSUAL = re.compile(rb"NaN|Infinity|\d{19}|[eE]\+?\d{2}")
_BEYOND = float(1 << 63)


class RecordError(UserError, ValueError):
    """A run folder that cannot be read, with the file and line."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Plan(Record):
    """Everything that decides a run's answers; its hash is the run id."""

    model: str = Field(description="model as asked for: nano, a folder name or a hub id")
    checkpoint: str = Field(description="checkpoint that runs (the AR companion for causal methods)")
    weights_hash: str = Field(description="sha256 over the checkpoint's weights, 16 hex digits")
    adapter: str | None = None
    adapter_hash: str | None = None
    merged: bool | None = Field(
        default=None, description="adapter merged into the weights; null without adapter"
    )
    tokenizer_hash: str | None = None
    method: str
    method_source: str = Field(
        description="'built-in', the distribution that provides it, or sha256 of the file it was loaded from"
    )
    isolated: bool | None = Field(
        default=None,
        description="whether the decoder ran in a jail; null: the project's own, in the harness' process by "
        "default",
    )
    settings: dict[str, Any] = Field(description="all settings of the method, defaults included")
    suite: str
    prompts_hash: str = Field(description="sha256 over all rendered prompts of the run, in order")
    limit: int | None = Field(default=None, description="number of documents asked for; null: all")
    max_new_tokens: int = Field(description="canvas length in tokens")
    blocks: list[int] = Field(
        default=[],
        description="tokens of reasoning and answer where the suite divides the canvas; empty: one text",
    )
    stop_rule: StopRule = "harness"
    chat_template: bool = False
    template: str = Field(default="default", description="which of the suite's prompt templates")
    num_fewshot: int | None = Field(
        default=None, description="solved examples in the prompt; null: the suite's own number"
    )
    fewshot_seed: int | None = Field(
        default=None, description="seed that drew them; null: the suite's own examples"
    )
    batch_size: int = Field(default=1, ge=1)
    repeats: int = Field(default=1, ge=1)
    protocol: str = Field(
        default="quick",
        description="how the run is timed: quick, standard or publish; see harness.measuring.protocol",
    )
    device: str = Field(description="torch device: cpu, cuda:0")
    device_name: str = Field(description="device slug, first folder of the run's path")
    dtype: str
    attention: str = Field(
        description="implementation of attention: sdpa, flash, flex; flash+sdpa: sdpa where flash has no "
        "kernel for a mask"
    )
    compiled: bool = Field(default=False, description="layers compiled (harness.model.compiled)")
    threads: int | None = None
    seed: int = 0
    stop_strings: list[str] = Field(
        default=[], description="texts of the suite at which an answer ends under the harness' stop rule"
    )
    family_source: str | None = Field(
        default=None, description="where the model's family comes from unless it is built in"
    )
    overrides: dict[str, Any] = Field(
        default={}, description="fields of the model's spec that the list of models replaces"
    )
    config_hash: str | None = Field(
        default=None,
        description="hash of what the configuration of model and adapter adds to the weights (RoPE, heads, "
        "scale); null: they ship with the package, or a run from before this was recorded",
    )
    stream: int = Field(
        default=0,
        description="continuous batching: prompts of one decode call, batch_size of them at a time; 0: none",
    )

    @property
    def rows(self) -> int:
        """Prompts of one decode call."""
        return self.stream or self.batch_size

    engine: str | None = Field(
        default=None,
        description="name and version of the engine that decoded by itself; null: the harness' own loop",
    )

    devices: int | None = Field(
        default=None, description="cards that the model's blocks are spread over; null: one device"
    )

    @model_serializer(mode="wrap")
    def _without_the_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Later fields are named only where they are set, so that the ids of runs made before them stay."""
        return {name: value for name, value in handler(self).items() if value or name not in _LATER}


_LATER = (
    "stop_strings",
    "family_source",
    "overrides",
    "config_hash",
    "engine",
    "stream",
    "compiled",
    "devices",
)


class AuditCheck(Record):
    """One audit check."""

    name: str
    passed: bool
    detail: str = ""


class Audit(Record):
    passed: bool
    checks: list[AuditCheck] = []
    not_made: list[str] = Field(
        default=[], description="checks that could not be made, because an engine decodes by itself"
    )


class Summary(Record):
    """Figures over the samples of a run; times in seconds, rates in tokens per second."""

    samples: int
    errors: int = Field(description="samples whose status is not ok")
    pass_at_1: float | None
    pass_at_1_low: float | None = Field(description="Wilson 95% interval")
    pass_at_1_high: float | None
    tps: float | None = Field(description="sum(useful) / sum(time)")
    tps_committed: float | None
    tpf: float | None = Field(description="sum(useful) / sum(nfe)")
    nfe: float | None = Field(description="mean forward passes per sample")
    work: float | None = Field(description="sum(positions) / sum(useful)")
    useful: float | None = Field(description="mean useful tokens per sample")
    output_entropy: float | None = Field(
        default=None,
        description="mean over samples of the entropy (nats) of the histogram of useful tokens; low: answers "
        "repeat themselves",
    )
    waste: float | None = Field(description="1 - useful / committed")
    latency_p50: float | None
    latency_p90: float | None
    latency_p99: float | None
    first_block_p50: float | None
    time_s: float = Field(description="sum of decode time")
    forward_share: float | None = Field(description="share of decode time inside model forwards")
    select_share: float | None = Field(
        default=None, description="share of decode time in the method's own code; the rest is the harness'"
    )
    peak_memory_bytes: int | None
    call_memory_bytes: int | None = Field(
        default=None, description="largest peak of a decode call above the level at its start"
    )
    roof_share: float | None = Field(
        default=None, description="least time the hardware allows for the forwards of the run / decode time"
    )


class Run(Record):
    """``run.json``."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["running", "complete"] = "running"
    created: str
    finished: str | None = None
    command: str
    plan: Plan
    changed: dict[str, Any] | None = Field(
        default=None, description="settings that differ from the method's defaults; null: not recorded"
    )
    comparability_key: str = Field(description="hash of what all rows of one table must share")
    comparability: dict[str, Any] = Field(description="the fields behind the key")
    environment: dict[str, Any]
    prompting: dict[str, Any] | None = Field(
        default=None,
        description="whose tokenizer and chat template wrote the prompts: checkpoint, tokenizer_hash, "
        "chat_template (a hash; "
        "null: none), fewshot_as_multiturn; null: a run from before this was recorded",
    )
    preset: dict[str, Any] | None = Field(
        default=None,
        description="name, project, source, note and values of the preset that was asked for, and which of "
        "them flags replaced",
    )
    tuning: dict[str, Any] | None = Field(
        default=None, description="settings tried for this method and on which split; null: none recorded"
    )
    expected: int | None = Field(
        default=None, description="samples of the whole run; null: a run from before this was recorded"
    )
    weights_bytes: int | None = Field(
        default=None, description="bytes of the weights that the method computes with"
    )
    isolation: dict[str, Any] | None = Field(
        default=None,
        description="of a decoder in a jail: which jail, what it cannot do here, seconds per request of an "
        "empty model",
    )
    jail: dict[str, Any] | None = Field(
        default=None,
        description="of answers that are programs: which jail graded them, and what it cannot do on this "
        "machine",
    )
    kernels: list[str] | None = Field(
        default=None,
        description="implementations of attention that ran (plan.attention names what was chosen); null: not "
        "recorded",
    )
    load_s: float | None = None
    wall_s: float | None = Field(
        default=None, description="end-to-end seconds of this process, loading and grading included"
    )
    roofline: dict[str, Any] | None = Field(
        default=None, description="measured bandwidth and matmul rate, cost of the model's forwards"
    )
    protocol: dict[str, Any] | None = Field(
        default=None,
        description="what was done: warm-up runs and variation per shape, timing passes, determinism rate "
        "over repeats",
    )
    audit: Audit | None = None
    summary: Summary | None = None


class Measured(Record):
    """What the meter and the clock say of one decoded row; null throughout where nothing was decoded."""

    committed: int | None = Field(default=None, description="generated ids that are written")
    nfe: int | None = Field(default=None, description="forward passes; null if nothing could be decoded")
    positions: int | None = Field(
        default=None, description="query positions fed to the layers, summed over forwards"
    )
    computed: int | None = Field(
        default=None,
        description="positions' worth of linear maps multiplied, padding and partial layers included; null: "
        "not recorded",
    )
    kv_read: int | None = Field(default=None, description="key positions attended to, summed over forwards")
    time_s: float | None = Field(
        default=None,
        description="decode seconds; where rows share a decode call its wall time divided by their number",
    )
    rows: int | None = Field(default=None, description="rows of the decode call, which share its clock")
    admitted_s: float | None = Field(
        default=None,
        description="continuous batching: seconds of the decode call before this row's turn came; null: it "
        "waited for no row",
    )
    latency_s: float | None = Field(
        default=None, description="seconds until this row was finished, from when its turn came"
    )
    first_block_s: float | None = None
    forward_s: float | None = Field(default=None, description="part of time_s spent inside the model")
    select_s: float | None = Field(
        default=None, description="part of time_s spent in the method's own code, between forwards"
    )
    peak_memory_bytes: int | None = None
    call_memory_bytes: int | None = Field(
        default=None, description="peak above the level at the call's start; all rows of the call"
    )
    random: bool | None = Field(
        default=None, description="whether the decoder asked for the row's random stream"
    )
    forwards: list[tuple[int, int, int]] = Field(
        default=[], description="[query, cached, stored] positions of each forward"
    )


class Sample(Measured):
    """One line of ``samples.jsonl``: one (document, repeat)."""

    run_id: str
    suite: str
    method: str
    doc_id: int
    prompt_hash: str
    template: str = "default"
    repeat: int = 0
    order: int = Field(description="place in the order of decoding")
    batch: int | None = Field(
        default=None, description="number of the decode call within the run; its rows share one clock"
    )
    prompt_tokens: int
    output_ids: list[int] = Field(
        description="ids of the generation region up to the last written one; holes hold the mask (or "
        "fill) id"
    )
    pieces: list[str] = Field(
        default=[], description="string of each output id, for the decode viewer; empty: not recorded"
    )
    text: str | None = Field(description="decoded useful ids")
    program: str | None = Field(
        default=None,
        description="program that was executed; null where it holds a third party's prompt, text rebuilds it",
    )
    answer: str | None = Field(default=None, description="extracted answer (other suites)")
    correct: bool | None = None
    useful: int | None = Field(description="ids before the first end-of-text and the first stop string")
    block_useful: list[int] = Field(
        default=[], description="the same for each of the blocks; empty: one text"
    )
    output_hash: str = Field(
        description="sha256 over output_ids, 16 hex digits; where batch is null, over the unwritten rest too"
    )
    step_map: list[int] = Field(
        default=[], description="per output id: index of the forward that wrote it, -1: none"
    )
    confidence: list[float | None] = []
    blocks: list[tuple[int, int]] = Field(
        default=[], description="[start, stop) in output_ids of each text; empty: one text"
    )
    status: Status = "ok"
    error: str | None = None
    grading: Grading = "not_run"
    seal: str | None = Field(
        default=None, description="sha256 over the rest of the line, 16 hex digits; null: not sealed"
    )


def read_run(folder: Path) -> Run:
    """``run.json`` of a run folder; RecordError names the file and what is wrong."""
    path = folder / "run.json"
    if not path.exists():
        raise RecordError(f"{path} not found: not a run folder")
    text = read_text(path, RecordError, ADVICE).encode()
    try:
        run = Run.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{path} is damaged ({reason(error)}); {ADVICE}") from None
    _check_numbers(text, path)
    return run


def _check_numbers(text: bytes, where: object) -> None:
    """RecordError for numbers that no run writes: not finite, or beyond 64 bits."""
    if not _UNUSUAL.search(text):
        return
    value = parse_json(text, where, RecordError, advice=ADVICE)
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, float | int) and not abs(one) < _BEYOND:
            raise RecordError(f"{where} is damaged (it holds the number {brief(one)}); {ADVICE}")


def sample_lines(folder: Path) -> Iterator[tuple[int, bytes, Sample]]:
    """(number from 1, line, sample) of ``samples.jsonl`` as it was written.

    A torn last line (the process was killed while writing) is ignored; any other damaged line is a
    RecordError.
    """
    path = folder / "samples.jsonl"
    try:
        for number, line in whole_lines(path):
            try:
                sample = Sample.model_validate_json(line)
            except ValidationError as error:
                raise RecordError(f"{path} line {number} is damaged ({reason(error)}); {ADVICE}") from None
            _check_numbers(line, f"{path} line {number}")
            yield number, line, sample
    except PackedError as error:
        raise RecordError(f"{error}; {ADVICE}") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({reason(error)}); {ADVICE}") from None


def read_samples(folder: Path) -> list[Sample]:
    """All samples of a run in (doc_id, repeat) order, as they stand; ``harness.records.evidence`` reads those
    that agree with their run.
    """
    samples = {(sample.doc_id, sample.repeat): sample for _, _, sample in sample_lines(folder)}
    return [samples[key] for key in sorted(samples)]


def find_runs(root: Path) -> Iterator[Path]:
    """Run folders below ``root`` (or ``root`` itself), sorted by path."""
    return iter(sorted(path.parent for path in root.rglob("run.json")))


def write_run(folder: Path, run: Run) -> None:
    """Write ``run.json`` atomically, indented for reading and diffing."""
    write_atomic(
        folder / "run.json", json.dumps(run.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    )
