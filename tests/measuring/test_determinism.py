"""At temperature 0 a run whose repeats differ, or whose later passes are implausibly faster, fails the
audit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.decoding.registry import load_method
from harness.engine.generator import Generator
from harness.engine.loader import load
from harness.measuring.audit import audit_run
from harness.records.schema import Audit, Sample
from harness.runs.cell import Cell, Options, render
from harness.runs.turns import run_cells
from suites.suite import load_suite
from tests.synthetic_runs import Fake, fake_samples

REMEMBERS = Path(__file__).parents[1] / "cheaters" / "remembers.py"


def failures(audit: Audit) -> dict[str, str]:
    return {check.name: check.detail for check in audit.checks if not check.passed}


def changed(samples: list[Sample], **update: Any) -> list[Sample]:
    """The second pass of document 3 as ``update`` says."""
    return [one.model_copy(update=update) if (one.doc_id, one.repeat) == (3, 1) else one for one in samples]


SAMPLES = fake_samples(Fake(documents=8, repeats=3))


@pytest.mark.parametrize("update", [{"output_hash": "other"}, {"nfe": 2}, {"positions": 7}, {"kv_read": 7}])
def test_repeats_that_differ_fail(update: dict[str, Any]) -> None:
    assert audit_run(SAMPLES, greedy=True).passed
    found = audit_run(changed(SAMPLES, **update), greedy=True)
    assert not found.passed
    assert failures(found) == {"deterministic": "1 of 8 repeated documents differ, first document 3"}
    assert audit_run(changed(SAMPLES, **update), greedy=False).passed, "a sampling decoder draws anew"
    assert audit_run(
        [one.model_copy(update={"random": True}) for one in changed(SAMPLES, **update)], greedy=True
    ).passed


def test_later_passes_that_are_implausibly_faster_fail() -> None:
    for factor, passed in ((0.6, True), (0.1, False)):
        later = [
            one.model_copy(
                update={"time_s": (one.time_s or 0) * factor, "latency_s": None, "forward_s": None}
            )
            if one.repeat
            else one
            for one in SAMPLES
        ]
        found = audit_run(later, greedy=True)
        assert found.passed == passed
        assert list(failures(found)) == ([] if passed else ["passes_alike"])
    once = audit_run(fake_samples(Fake(documents=4)), greedy=True)
    assert not {"deterministic", "passes_alike"} & {check.name for check in once.checks}, (
        "nothing was repeated"
    )


def test_a_decoder_that_remembers_fails_its_run(tmp_path: Path) -> None:
    method, suite = load_method(str(REMEMBERS)), load_suite("nano-gsm")
    generator = Generator(load("nano", method.decoder.requires), method.decoder, {"tokens_per_step": 8})
    cell = Cell(generator, method, suite, render(suite, 3), Options(tmp_path, repeats=2, limit=3))
    run_cells([cell], None, lambda *_: None)
    cell.folder.close()
    assert cell.folder.run.audit is not None
    assert "deterministic" in failures(cell.folder.run.audit)
