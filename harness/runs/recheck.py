"""A stored run computed anew: every figure, count and hash in ``run.json`` that follows from the samples or
from the rest of the record, compared with what is stored.

The functions that made the figures make them again here; a check names the first difference by file, sample
and field, with both values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from harness.engine.isolation.cost import overhead
from harness.errors import UserError
from harness.measuring.audit import audit_run
from harness.measuring.protocol import determinism, protocol
from harness.measuring.roofline import roof_share
from harness.measuring.served import audit_served
from harness.records.evidence import lacking, read_evidence
from harness.records.files import digest
from harness.records.outside import brief, one_line, reason
from harness.records.printable import printable
from harness.records.schema import AuditCheck, Run, Sample, read_run, read_samples
from harness.runs.plan import planned_fields, run_id
from harness.statistics.summary import summarise

RUN, SAMPLES = "run.json", "samples.jsonl"
CLOSE = 1e-9
"""Relative: the last digits of a mean differ between versions of a library."""
NOT_RECOMPUTED = "weights_unchanged"
"""The one check of an audit that takes the weights."""


class Difference(UserError, ValueError):
    """What a stored run says and its samples do not, or what keeps it out of the tables."""


@dataclass(frozen=True)
class Check:
    """A line of the table: ``passed`` null where there was nothing to check with."""

    name: str
    passed: bool | None
    detail: str


Work = Callable[[], str]
"""Says in a few words what was checked. Raises UserError for what does not hold, Skipped for what cannot be
checked here.
"""


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
"""What values of an unexpected kind bring about in the functions that compute with them."""


class Skipped(Exception):
    """Why something was not checked."""


def checked(name: str, work: Work) -> Check:
    """Do one check; whatever an untrusted file brings about is a failed check in one line."""
    try:
        return Check(name, True, work())
    except Skipped as why:
        return Check(name, None, str(why))
    except UserError as fault:
        return Check(name, False, one_line(printable(fault), 600))
    except _UNREADABLE as fault:
        return Check(name, False, f"{RUN} or {SAMPLES} cannot be computed with ({printable(reason(fault))})")


@dataclass(frozen=True)
class Stored:
    """A run folder as it stands, read without believing it."""

    folder: Path
    run: Run
    samples: Sequence[Sample]

    @classmethod
    def read(cls, folder: Path) -> Stored:
        """RecordError for files that cannot be read at all."""
        run, samples = read_run(folder), read_samples(folder)
        for sample in samples:
            if sample.batch is None:
                sample.batch = sample.order // max(run.plan.batch_size, 1)
        return cls(folder, run, samples)


def recheck(stored: Stored) -> list[Check]:
    """All that follows from the two files alone."""
    checks: dict[str, Callable[[Stored], str]] = {
        "samples": _evidence,
        "complete": _complete,
        "run id": _id,
        "comparability": _comparability,
        "summary": _summary,
        "audit": _audit,
        "protocol": _protocol,
    }
    return [checked(name, partial(work, stored)) for name, work in checks.items()]


def _evidence(stored: Stored) -> str:
    found = read_evidence(stored.folder, stored.run)
    unsealed = sum(sample.seal is None for sample in found)
    return f"{len(found)} agree with the run and themselves, {len(found) - unsealed} by their seals too"


def _complete(stored: Stored) -> str:
    run, plan = stored.run, stored.run.plan
    again = "give its command again, which continues it"
    if run.status != "complete":
        have = f"{len(stored.samples)} of {run.expected or 'its'} samples are there"
        raise Difference(f"{RUN}: status is {run.status}, {have}: {again}")
    if (missing := lacking(run, len(stored.samples))) is not None:
        raise Difference(f"{SAMPLES} holds {missing}: {again}")
    if run.expected is None:
        return f"{len(stored.samples)} samples (how many were expected is not recorded)"
    documents = sorted({sample.doc_id for sample in stored.samples})
    same_keys(stored, documents)
    return f"{len(stored.samples)} samples, as protocol {plan.protocol} asks of {len(documents)} documents"


def same_keys(stored: Stored, documents: Sequence[int]) -> None:
    """Difference naming the first (document, repeat) that lacks or is too many, if these ``documents`` were
    to be answered as the plan says.
    """
    plan = stored.run.plan
    if plan.repeats * len(documents) > len(stored.samples):
        asked = f"{plan.repeats} repeats of {len(documents)} documents"
        more = f"; the first lacking is {_first_lacking(documents, stored.samples)}"
        raise Difference(
            f"{SAMPLES} holds {len(stored.samples)} samples, and the plan asks for {asked}{more}"
        )
    wanted = set(protocol(plan.protocol).keys(documents, plan.repeats, plan.rows))
    there = {(sample.doc_id, sample.repeat) for sample in stored.samples}
    for what, keys in (("lacks", wanted - there), ("has beyond its plan", there - wanted)):
        if keys:
            document, repeat = min(keys)
            raise Difference(f"{SAMPLES} {what} document {document}, repeat {repeat}")


def _first_lacking(documents: Sequence[int], samples: Sequence[Sample]) -> str:
    there = {(sample.doc_id, sample.repeat) for sample in samples}
    number = next(repeat for repeat in count() if any((one, repeat) not in there for one in documents))
    return f"document {min(one for one in documents if (one, number) not in there)}, repeat {number}"


def _id(stored: Stored) -> str:
    run = stored.run
    compare(RUN, "run_id", run.run_id, run_id(run.plan))
    for field, told, place in (
        ("run_id", run.run_id, stored.folder),
        ("plan.suite", run.plan.suite, stored.folder.parent),
        ("plan.device_name", run.plan.device_name, stored.folder.parent.parent),
    ):
        if place.resolve().name != told:
            raise Difference(f"{RUN}: {field} {brief(told)} lies in a folder called {place.resolve().name}")
    return "hash of the plan, and the names of the folders"


def _comparability(stored: Stored) -> str:
    run = stored.run
    compare(RUN, "comparability_key", run.comparability_key, digest(run.comparability))
    for name, value in planned_fields(run.plan).items():
        compare(RUN, f"comparability.{name}", run.comparability.get(name), value)
    return "key is the hash of its fields, and these are the plan's"


def _summary(stored: Stored) -> str:
    if stored.run.summary is None:
        raise Difference(f"{RUN} has no summary: give the run's command again, which makes it")
    share = roof_share(stored.run, stored.samples)
    again = summarise(stored.samples).model_copy(update={"roof_share": share})
    told, found = stored.run.summary.model_dump(), again.model_dump()
    for name, value in found.items():
        # A figure that did not exist when the run was made is null there.
        if told[name] is not None or name not in _LATER:
            compare(RUN, f"summary.{name}", told[name], value)
    return f"{len(found)} figures recomputed from the samples"


_LATER = ("output_entropy", "call_memory_bytes", "select_share", "roof_share")


def _audit(stored: Stored) -> str:
    run = stored.run
    if run.audit is None:
        raise Difference(f"{RUN} has no audit: give the run's command again, which makes it")
    more = [check for check in run.audit.checks if check.name == NOT_RECOMPUTED]
    greedy = not run.plan.settings.get("temperature")
    again = (
        audit_run(stored.samples, roof_share(run, stored.samples), greedy=greedy, more=more)
        if run.plan.engine is None
        else audit_served(stored.samples)
    )
    told = {check.name: check for check in run.audit.checks}
    for check in again.checks:
        if check.name in told:
            compare(RUN, f"audit.{check.name}", told[check.name].passed, check.passed)
        elif not check.passed:
            raise Difference(f"audit: {_failed(check)}, which {RUN} does not list")
    compare(RUN, "audit.passed", run.audit.passed, all(check.passed for check in run.audit.checks))
    if failed := [check for check in (*run.audit.checks, *again.checks) if not check.passed]:
        raise Difference(
            f"audit failed: {_failed(failed[0])}; such a run stands in no table: mend the decoder"
        )
    made = {check.name for check in again.checks} & set(told)
    return f"passed; {len(made) - len(more)} of {len(told)} checks made again"


def _failed(check: AuditCheck) -> str:
    return f"{check.name} ({check.detail})" if check.detail else check.name


def _protocol(stored: Stored) -> str:
    told, plan = stored.run.protocol or {}, stored.run.plan
    if "name" in told:
        compare(RUN, "protocol.name", told["name"], plan.protocol)
    if "determinism" in told:
        compare(RUN, "protocol.determinism", told["determinism"], determinism(stored.samples))
    glass = stored.run.isolation
    if glass is not None:
        compare(RUN, "isolation.share", glass.get("share"), overhead(glass, stored.samples))
    return f"{plan.protocol}; share of equal repeats{', cost of glass' if glass else ''} recomputed"


def compare(where: str, field: str, stored: Any, again: Any, more: str = "") -> None:
    """Difference unless the two are equal, numbers up to their last digits."""
    if stored == again and isinstance(stored, bool) == isinstance(again, bool):
        return
    if _is_number(stored) and _is_number(again) and math.isclose(stored, again, rel_tol=CLOSE, abs_tol=0.0):
        return
    raise Difference(f"{where}: {field} stored {brief(stored)}, recomputed {brief(again)}{more}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
