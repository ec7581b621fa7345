"""Deterministic runs without a model: what the report and statistics tests read.

Documents have a difficulty and a length of their own, shared by all runs, so that runs are paired as real
ones are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.files import digest
from harness.records.schema import Audit, AuditCheck, Plan, Run, Sample, write_run
from harness.statistics.summary import summarise

WORDS = ["the", " sum", " of", " two", " and", " three", " is", " five", ".", "\n", "####", " 5"]


@dataclass(frozen=True)
class Fake:
    """What a synthetic run is like; times in seconds, lengths in tokens."""

    method: str = "vanilla"
    settings: dict[str, Any] = field(default_factory=dict)
    suite: str = "nano-gsm"
    documents: int = 32
    repeats: int = 1
    accuracy: float = 0.7
    disagreement: float = 0.05
    second_per_token: float = 0.01
    timing_noise: float = 0.02
    length_factor: float = 1.0
    tokens_per_forward: float = 1.0
    seed: int = 0
    device_name: str = "test-cpu"
    dtype: str = "float32"
    threads: int = 2
    template: str = "default"
    protocol: str = "quick"
    cpu: str = "test processor"


def fake_samples(fake: Fake, run_id: str = "0" * 12) -> list[Sample]:
    """(documents x repeats) samples in (doc_id, repeat) order."""
    shared = np.random.default_rng(99)
    own = np.random.default_rng([fake.seed, *fake.method.encode()])
    samples: list[Sample] = []
    for document in range(fake.documents):
        difficulty, base_length = shared.random(), int(shared.integers(20, 60))
        if own.random() < fake.disagreement:
            difficulty = own.random()
        useful = max(1, round(base_length * fake.length_factor))
        for repeat in range(fake.repeats):
            time_s = useful * fake.second_per_token * float(np.exp(fake.timing_noise * own.standard_normal()))
            samples.append(
                _sample(fake, run_id, document, repeat, useful, time_s, bool(difficulty < fake.accuracy))
            )
    return samples


def _sample(
    fake: Fake, run_id: str, document: int, repeat: int, useful: int, time_s: float, correct: bool
) -> Sample:
    nfe = max(1, round(useful / fake.tokens_per_forward))
    # Tokens are written a few out of order, as diffusion decoders do.
    steps = [min(nfe - 1, (place ^ 1) * nfe // useful) for place in range(useful)]
    pieces = [WORDS[(place * 7 + document) % len(WORDS)] for place in range(useful)]
    return Sample(
        run_id=run_id,
        suite=fake.suite,
        method=fake.method,
        template=fake.template,
        doc_id=document,
        prompt_hash=hashlib.sha256(f"{fake.suite}/{document}".encode()).hexdigest()[:16],
        repeat=repeat,
        order=document * fake.repeats + repeat,
        batch=document * fake.repeats + repeat,
        prompt_tokens=40,
        output_ids=list(range(10, 10 + useful)),
        pieces=pieces,
        text="".join(pieces),
        program=None,
        answer=None,
        correct=correct,
        useful=useful,
        committed=useful,
        nfe=nfe,
        positions=nfe * 96,
        kv_read=nfe * 136,
        time_s=time_s,
        latency_s=time_s,
        first_block_s=time_s / 4,
        forward_s=time_s * 0.85,
        select_s=time_s * 0.1,
        peak_memory_bytes=64 << 20,
        output_hash=digest(list(range(10, 10 + useful))),
        forwards=[(96, 0, 0)] * nfe,
        step_map=steps,
        confidence=[round(0.5 + 0.5 * ((place * 37) % 100) / 100, 3) for place in range(useful)],
        grading="passed" if correct else "failed",
    )


def fake_run(fake: Fake, samples: list[Sample] | None = None) -> Run:
    """A complete run with a passed audit."""
    plan = Plan(
        model="nano",
        checkpoint="nano",
        weights_hash="a" * 16,
        merged=None,
        method=fake.method,
        method_source="built-in",
        settings=fake.settings,
        suite=fake.suite,
        prompts_hash="b" * 16,
        limit=fake.documents,
        max_new_tokens=96,
        repeats=fake.repeats,
        device="cpu",
        device_name=fake.device_name,
        dtype=fake.dtype,
        template=fake.template,
        protocol=fake.protocol,
        attention="sdpa",
        threads=fake.threads,
        seed=0,
    )
    run_id = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:12]
    names = (
        "suite",
        "weights_hash",
        "dtype",
        "attention",
        "prompts_hash",
        "device_name",
        "threads",
        "max_new_tokens",
        "batch_size",
    )
    shared = {name: getattr(plan, name) for name in names}
    shared |= {"template": plan.template} if plan.template != "default" else {}
    return Run(
        run_id=run_id,
        status="complete",
        created="2026-11-22T00:00:00Z",
        finished="2026-11-22T00:01:00Z",
        command=f"bench run --method {fake.method} --suite {fake.suite} --limit {fake.documents}",
        plan=plan,
        comparability_key=hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12],
        comparability=shared,
        environment={
            "versions": {"torch": "2.13.0"},
            "git": {"commit": "0123456789abcdef", "dirty": True},
            "cpu": fake.cpu,
        },
        tuning=None,
        expected=fake.documents * fake.repeats,
        load_s=0.5,
        wall_s=60.0,
        audit=Audit(passed=True, checks=[AuditCheck(name="no mask left", passed=True)]),
        summary=summarise(samples if samples is not None else fake_samples(fake)),
    )


def write_fake(root: Path, fake: Fake) -> Path:
    """Store a synthetic run below ``root`` and return its folder."""
    run = fake_run(fake)
    folder = root / fake.device_name / fake.suite / run.run_id
    folder.mkdir(parents=True)
    write_run(folder, run)
    lines = [sample.model_dump_json() for sample in fake_samples(fake, run.run_id)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_table(root: Path, documents: int = 32, suite: str = "nano-gsm") -> list[Path]:
    """The usual table: vanilla at one and two tokens per step, two accelerated methods."""
    rows = [
        Fake("vanilla", {"tokens_per_step": 1, "temperature": 0.0}, suite, documents),
        Fake(
            "vanilla",
            {"tokens_per_step": 2, "temperature": 0.0},
            suite,
            documents,
            1,
            0.6,
            0.05,
            0.0055,
            tokens_per_forward=2,
            seed=1,
        ),
        Fake(
            "fast_dllm",
            {"cache": "dual", "threshold": 0.9},
            suite,
            documents,
            1,
            0.69,
            0.05,
            0.0035,
            tokens_per_forward=2.5,
        ),
        Fake("d2f", {"block_size": 16}, suite, documents, 1, 0.4, 0.05, 0.0025, tokens_per_forward=3.5),
    ]
    return [write_fake(root, row) for row in rows]
