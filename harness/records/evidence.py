"""Stored runs are evidence: each sample must agree with its run and with itself, and a complete run has all
of its samples.

A line that was edited or comes from another run is refused by file, line and field. This finds damage and
careless edits; who computes every field anew, the seal included, is stopped by running the command again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.records.files import digest
from harness.records.outside import brief
from harness.records.schema import Record, RecordError, Run, Sample, sample_lines

SLACK = 1.01
"""Clocks of a device and its host, and rounded floats, may disagree by this much."""
MOST_PASSES = 3
"""Times that a protocol decodes a document at most, whatever the repeats asked for."""
_SEAL = b',"seal":"'


def sealed(record: Record) -> bytes:
    """The line of a record with a seal (without its line feed), closed by a hash over everything before
    it.
    """
    body = record.model_dump_json(exclude={"seal"}).encode()[:-1]
    return body + _SEAL + _hash(body) + b'"}'


def read_evidence(folder: Path, run: Run) -> list[Sample]:
    """Samples of a run in (doc_id, repeat) order, each with its batch number; RecordError for the first line
    that cannot be its.

    Where no batch number is stored, neighbours in the order of decoding made up a batch.
    """
    path = folder / "samples.jsonl"
    samples: dict[tuple[int, int], Sample] = {}
    for number, line, sample in sample_lines(folder):
        key = sample.doc_id, sample.repeat
        fault = (
            f"document {key[0]}, repeat {key[1]} is there already"
            if key in samples
            else next(_faults(run, sample, line), None)
        )
        if fault is not None:
            raise RecordError(
                f"{path} line {number}: {fault} (document {key[0]}, repeat {key[1]}); this is not what the "
                "run wrote: move the folder away or use --fresh"
            )
        if sample.batch is None:
            sample.batch = sample.order // run.plan.batch_size
        samples[key] = sample
    return [samples[key] for key in sorted(samples)]


def lacking(run: Run, samples: int) -> str | None:
    """What a run that calls itself complete lacks: ``2 of 4 samples``; None: nothing."""
    expected = run.expected if run.expected is not None else run.summary.samples if run.summary else None
    return f"{samples} of {expected} samples" if expected is not None and samples != expected else None


def _faults(run: Run, sample: Sample, line: bytes) -> Iterator[str]:
    plan = run.plan
    for name, told in (
        ("run_id", run.run_id),
        ("suite", plan.suite),
        ("method", plan.method),
        ("template", plan.template),
    ):
        if getattr(sample, name) != told:
            yield f"{name} is {getattr(sample, name)!r}, the run's is {told!r}"
    if not 0 <= sample.repeat < max(plan.repeats, MOST_PASSES):
        yield f"repeat {sample.repeat} of {plan.repeats}"
    if run.expected is not None and sample.batch is None:
        yield "batch is missing"
    yield from _ids(plan.max_new_tokens, sample)
    yield from _counts(sample)
    yield from _times(plan.batch_size, sample)
    if sample.seal is not None and not seal_fits(line, sample.seal):
        yield "seal does not fit the line: a value was changed"


def _ids(canvas: int, sample: Sample) -> Iterator[str]:
    places = len(sample.output_ids)
    for name, values in (("step_map", sample.step_map), ("confidence", sample.confidence)):
        if values and len(values) != places:
            yield f"{name} has {len(values)} entries for {places} output ids"
    # Before batches were numbered, the hash was over ids that are not stored where the answer ended early.
    if (sample.batch is not None or places == canvas) and sample.output_hash != digest(sample.output_ids):
        told, found = sample.output_hash, digest(sample.output_ids)
        yield f"output_hash is {brief(told)}, that of output_ids is {brief(found)}"
    if sample.useful is not None and sample.useful > places:
        yield f"useful is {sample.useful} of {places} output ids"


def _counts(sample: Sample) -> Iterator[str]:
    if sample.nfe is None:
        return
    if sample.nfe != len(sample.forwards):
        yield f"nfe is {sample.nfe}, but {len(sample.forwards)} forwards are listed"
    # The mean over layers: a policy may compute the whole row, as far as it is stored, in some of them.
    if sample.positions is not None and not 0 <= sample.positions <= sum(
        max(query, cached) for query, cached, _ in sample.forwards
    ):
        yield f"positions is {sample.positions}, more than the forwards sum to"
    if max(sample.step_map, default=-1) >= sample.nfe:
        yield f"step_map names a forward behind the last of {sample.nfe}"
    if sample.committed is not None and sample.committed != sum(step >= 0 for step in sample.step_map):
        yield f"committed is {sample.committed}, but step_map has another number of written ids"


def _times(batch_size: int, sample: Sample) -> Iterator[str]:
    if sample.time_s is None:
        return
    if not sample.time_s > 0:
        yield f"time_s is {sample.time_s}"
    if (sample.forward_s or 0.0) + (sample.select_s or 0.0) > SLACK * sample.time_s:
        yield f"forward_s and select_s exceed time_s {sample.time_s}"
    call = sample.time_s * (sample.rows or batch_size)
    ended = (sample.admitted_s or 0.0) + (sample.latency_s or 0.0)
    if sample.latency_s is not None and not 0 <= sample.latency_s <= ended <= SLACK * call:
        yield f"latency_s {sample.latency_s} lies outside the call of {call} s"
    # Alone in its call, a row is finished when the call is, or earlier where the method goes on.
    if (
        sample.first_block_s is not None
        and sample.latency_s is not None
        and sample.first_block_s > SLACK * sample.latency_s
    ):
        yield f"latency_s {sample.latency_s} is before first_block_s {sample.first_block_s}"


def seal_fits(line: bytes, seal: str) -> bool:
    """Whether ``seal`` is the hash over everything before it in the line."""
    return seal.encode() == _hash(line[: line.rfind(_SEAL)])


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
