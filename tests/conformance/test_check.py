"""``bench check``: our decoders pass, every cheating decoder is caught by the name of the check."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.check import sample_prompts
from harness.conformance.check import WITNESS_CHECKS, check_method, open_method
from harness.conformance.scan import SCAN_CHECKS, scan
from harness.decoding.meter import Meter
from harness.decoding.registry import load_method
from harness.engine.loader import load
from harness.measuring.audit import CHECK_NAMES
from harness.records.schema import AuditCheck
from tests.commands import bench
from tests.conftest import GOLDEN

CHEATERS = Path(__file__).parents[1] / "cheaters"

# The check that must name each cheat at run time, and whether the source scan must name it too.
CAUGHT = {
    "fewer_forwards": ("nfe_equals_hook_count", "no_private_parts"),
    "model_copy": ("forwards_through_backbone", "no_private_parts"),
    "meter_tamper": ("nfe_equals_hook_count", "no_own_counts"),
    "past_canvas": ("ids_match_commits", "no_private_parts"),
    "prompt_edit": ("prompt_unchanged", "no_private_parts"),
    "early_return": ("no_mask_left", None),
    "cut_short": ("answer_not_cut", None),
    "filler": ("no_filler", None),
    "own_clock": ("clock_intact", "no_own_clock"),
    "peeks_at_files": ("no_answers_read", "no_answers_read"),
    "peeks_at_frames": ("no_answers_read", "no_answers_read"),
    "stop_rule": ("rules_unchanged", "no_private_parts"),
    "step_map": ("tokens_through_commit", "no_private_parts"),
    "commits_twice": ("canvas_contract", None),
    "remembers": ("deterministic", None),
    "skips_layers": ("forwards_through_backbone", "no_private_parts"),
    "patches_meter": ("harness_untouched", "no_own_counts"),
    "claims_lossless": ("lossless_equals_reference", None),
    "batch_dependent": ("batch_4_equals_batch_1", "no_private_parts"),
}
SETTINGS = {
    "fast_dllm": {"block_length": 8},
    "d2f": {"block_size": 8},
    "multi_block": {"block_length": 8, "cache_delay_iter": 1},
}
SETTINGS |= {
    "streaming_dllm": {"block_length": 8, "suffix_window": 4},
    "semi_ar": {"block_length": 8, "cache": "sparse"},
}


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """Two of the cheats patch the process; the next test must not inherit it."""
    clock, record = time.perf_counter, Meter.record
    yield
    time.perf_counter, Meter.record = clock, record


def run(
    name: str, model: str = "dream_eos_tiny", scanned: bool = True, count: int = 4
) -> dict[str, AuditCheck]:
    method, source, opened = open_method(name, isolate=False)
    loaded = load(str(GOLDEN / model), method.decoder.requires)
    checks = check_method(
        method,
        loaded,
        SETTINGS.get(name, {}),
        sample_prompts(loaded, count, ()),
        source=source,
        opened=opened if scanned else (),
        reference=load_method("vanilla"),
    )
    return {check.name: check for check in checks}


@pytest.mark.parametrize("model", ["dream_eos_tiny", "llada_eos_tiny"])
@pytest.mark.parametrize("name", ["vanilla", "fast_dllm", "d2f"])
def test_our_decoders_pass(name: str, model: str) -> None:
    checks = run(name, model)
    assert [(check.name, check.detail) for check in checks.values() if not check.passed] == []
    assert {*CHECK_NAMES, *SCAN_CHECKS, *WITNESS_CHECKS, "interface", "settings_described"} == set(checks)


@pytest.mark.parametrize("name", ["streaming_dllm", "freedave", "multi_block", "semi_ar"])
def test_further_decoders_pass(name: str) -> None:
    checks = run(name)
    assert [(check.name, check.detail) for check in checks.values() if not check.passed] == []
    assert ("lossless_equals_reference" in checks) == (name == "freedave")


def test_every_cheater_is_listed() -> None:
    assert {path.stem for path in CHEATERS.glob("*.py")} - {"__init__"} == set(CAUGHT)


@pytest.mark.parametrize("name", CAUGHT)
def test_cheater_is_caught_by_name(name: str) -> None:
    by_run, by_scan = CAUGHT[name]
    checks = run(str(CHEATERS / f"{name}.py"))
    failed = {check.name for check in checks.values() if not check.passed}
    assert by_run in failed, failed
    assert checks[by_run].detail
    found = scan((CHEATERS / f"{name}.py").read_text())
    if by_scan is not None:
        assert found[by_scan]
    else:
        assert not any(found.values()), found


@pytest.mark.parametrize("name", ["peeks_at_files", "peeks_at_frames"])
def test_peeking_is_heard_whatever_the_source_says(name: str) -> None:
    """The finding of the scan is a line number; the one of the interpreter's events is the event itself."""
    detail = run(str(CHEATERS / f"{name}.py"))["no_answers_read"].detail
    assert {"peeks_at_files": "open ", "peeks_at_frames": "object.__getattr__ tb_frame"}[
        name
    ] in _runtime_part(name), detail


def _runtime_part(name: str) -> str:
    from harness.conformance.witness import WatchedBackbone, Witness
    from harness.engine.generator import Generator

    method, source, _ = open_method(str(CHEATERS / f"{name}.py"), isolate=False)
    loaded = load(str(GOLDEN / "dream_eos_tiny"))
    witness = Witness(method.decoder, source)
    from harness.measuring.clock import decode

    decode(
        WatchedBackbone(loaded.backbone),
        witness,
        Generator(loaded, method.decoder, {}).config,
        [[5, 6, 7]],
        8,
    )
    return "\n".join(witness.heard)


def test_command_prints_the_failed_names_and_exits_1() -> None:
    done = bench("check", CHEATERS / "early_return.py", "--model", GOLDEN / "dream_eos_tiny", "--limit", "2")
    assert done.returncode == 1, done.stderr
    assert "24 of 25 checks passed; failed: no_mask_left" in done.stdout


REMASKER = """
from methods.base import Forward, RowDecoder, propose

class Remasker(RowDecoder):
    name, summary = "remasker", "takes its first token back once"
    requires = frozenset({"mask_token"})

    def decode_row(self, row, spec, config):
        for turn in range(2):
            at = row.masked()[: None if turn else 4]
            logits = yield Forward(feed=(0, row.length), at=at)
            row.commit(at, propose(logits, row, spec, config).ids)
            if not turn:
                row.revise(at[:1], [spec.mask_id])

METHOD = Remasker()
"""


def test_an_honest_method_of_another_kind_passes(tmp_path: Path) -> None:
    (tmp_path / "remasker.py").write_text(REMASKER)
    failed = [
        (check.name, check.detail)
        for check in run(str(tmp_path / "remasker.py")).values()
        if not check.passed
    ]
    assert failed == []


def test_scan_is_not_fooled_by_names_of_our_own() -> None:
    text = "class A:\n    def f(self, row):\n        self._own = row.token(0)\n        return self._own\n"
    assert not any(scan(text).values())
    assert scan("import harness.decoding.meter")["no_own_counts"]
    assert scan("from harness.decoding import meter")["no_own_counts"]
    assert scan("print(1)")["no_printing_or_arguments"]
    assert scan("x = getattr(canvas, name)")["no_private_parts"]
