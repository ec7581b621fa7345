"""Held-out pass@1 before and after training, decoded as in training but greedily, on the same documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.decoding.registry import load_method
from harness.engine.generator import Generator, Request
from harness.engine.loader import Loaded, load
from harness.sandbox import open_jail
from harness.statistics.paired import mcnemar_exact, tango
from methods.training.grpo.options import GRPOOptions
from suites.suite import Suite, load_suite


@dataclass(frozen=True)
class Evaluated:
    """Outcome per document, mean forwards and tokens per answer."""

    solved: list[bool]
    nfe: float
    length: float

    @property
    def rate(self) -> float:
        return sum(self.solved) / len(self.solved)


@dataclass(frozen=True)
class Comparison:
    """pass@1 of both on the same documents; 95% score interval (Tango) of the difference, McNemar's exact
    p-value.
    """

    documents: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        change = f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p {self.p_value:.2g}"
        return f"pass@1 {self.before:.3f} -> {self.after:.3f}, {change}, {self.documents} documents"


def greedy(options: GRPOOptions) -> dict[str, Any]:
    """The decoder's settings without sampling."""
    return {
        key: value for key, value in options.settings.items() if key not in ("temperature", "top_p", "top_k")
    }


def score(loaded: Loaded, options: GRPOOptions, suite: Suite, count: int) -> Evaluated:
    """Decode and grade the first ``count`` documents; an answer that failed to decode counts as wrong."""
    decoder = load_method(options.method).decoder
    generator = Generator(loaded, decoder, greedy(options))
    documents = [doc for _, doc in suite.docs(count)]
    requests = [
        Request(suite.prompt(doc), options.canvas or generator.canvas(suite.canvas), tuple(suite.stop))
        for doc in documents
    ]
    found = [generation for batch in generator.run(requests, options.batch) for generation in batch]
    with open_jail(workers=options.threads, allow_unsafe=options.allow_unsafe) as jail:
        grades = [
            suite.grade(doc, generation.text, jail).correct is True and generation.status == "ok"
            if generation.text is not None
            else False
            for doc, generation in zip(documents, found, strict=True)
        ]
    rows = [generation.decoded for generation in found if generation.decoded is not None]
    return Evaluated(
        grades,
        sum(row.nfe for row in rows) / len(rows),
        sum(generation.useful or 0 for generation in found) / len(found),
    )


def compare(before: Evaluated, after: Evaluated) -> Comparison:
    """Paired comparison of two scores on the same documents."""
    pairs = list(zip(before.solved, after.solved, strict=True))
    gains, losses = sum(new and not old for old, new in pairs), sum(old and not new for old, new in pairs)
    low, high = tango(gains, losses, len(pairs))
    return Comparison(
        len(pairs), before.rate, after.rate, after.rate - before.rate, low, high, mcnemar_exact(gains, losses)
    )


def evaluate(options: GRPOOptions) -> Comparison:
    """Score the model training started from and the exported policy on ``options.evaluate`` documents; writes
    evaluation.json.
    """
    name, count = options.held_out or options.suite, options.evaluate
    suite, requires = load_suite(name, options.data_dir), load_method(options.method).decoder.requires
    path = options.work / "evaluation.json"
    before = score(load(options.model, requires, device=options.device), options, suite, count)
    model, adapter = (options.model, str(options.output)) if options.rank else (str(options.output), None)
    after = score(load(model, requires, device=options.device, adapter=adapter), options, suite, count)
    compared = compare(before, after)
    sides: Sequence[tuple[str, Evaluated]] = (("before", before), ("after", after))
    shown = {"suite": name, "method": options.method, "settings": greedy(options), **asdict(compared)}
    write(path, {**shown, "scores": {side: asdict(found) for side, found in sides}})
    return compared


def write(path: Path, value: dict[str, Any]) -> None:
    """JSON, one key per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
