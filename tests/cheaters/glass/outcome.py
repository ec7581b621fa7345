"""What becomes of an attempt: prevented, caught by name, counted as failed, without effect, or not noticed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.decoding.registry import MethodError
from harness.engine.generator import Generation, Generator, Request
from harness.engine.isolation.finding import find_method
from harness.engine.loader import load
from harness.measuring.fingerprint import fingerprint
from tests.cheaters.glass.attempts import ATTEMPTS, Attempt

MODEL = Path(__file__).parents[2] / "golden" / "dream_eos_tiny"
PROMPTS = ([5, 6, 7], [9, 8, 7, 6])
CANVAS = 16
HONEST = Attempt("nothing")


def answers(attempt: Attempt, folder: Path, isolate: bool) -> list[Generation]:
    """Two prompts, twice. MethodError for a file that does not load."""
    path, secret = folder / "cheat.py", folder / "answers"
    secret.write_bytes(bytes([5, 9] * 100))
    path.write_text(attempt.source(str(secret)))
    method = find_method(str(path), isolate=isolate)
    generator = Generator(load(str(MODEL), method.decoder.requires), method.decoder, {})
    requests = [Request(prompt, CANVAS, repeat=repeat) for repeat in range(2) for prompt in PROMPTS]
    return [item for batch in generator.run(requests, 1) for item in batch]


def outcome(name: str, folder: Path, isolate: bool, honest: list[Generation]) -> str:
    """One word or two for ``name``, against the answers of the honest decoder."""
    before = fingerprint(load(str(MODEL)).backbone)
    try:
        found = answers(ATTEMPTS[name], folder, isolate)
    except MethodError as error:
        return f"prevented at import ({_short(str(error))})"
    failed = [item for item in found if item.decoded is None]
    if any(item.status == "audit_failed" for item in failed):
        return f"caught by canvas_contract ({_short(failed[0].error or '')})"
    if failed and name == "drops_slow":
        assert all(item.spent_s for item in failed)
        return "counted as failed, with its time"
    if failed:
        return f"prevented ({_short(failed[0].error or '')})"
    checks = sorted(
        {check.name for item in found if item.decoded for check in item.decoded.checks if not check.passed}
    )
    facts = [_facts(item) for item in found]
    if facts[: len(PROMPTS)] != facts[len(PROMPTS) :]:
        checks.append("deterministic")
    if fingerprint(load(str(MODEL)).backbone) != before:
        checks.append("weights_unchanged")
    if checks:
        return f"caught by {', '.join(checks)}"
    return "no effect" if facts == [_facts(item) for item in honest] else "NOT NOTICED"


def _facts(item: Generation) -> tuple[Any, ...]:
    row = item.decoded
    assert row is not None
    return row.output, row.nfe, row.positions, row.time_s > 0, len(row.checks) > 0


def _short(text: str) -> str:
    plain = re.sub(r"[<'\"]?/(tmp|proc|work|home|root)/\S*", "a file", text)
    return " ".join(plain.split()).split("could not be imported: ")[-1].replace("|", "/")[:60].rstrip(" :")
