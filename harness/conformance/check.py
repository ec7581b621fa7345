"""Contract tests and audit of one decoder, ours or a third party's: what ``bench check`` runs.

Each prompt is decoded three times: watched (harness.conformance.witness), alone without a watcher, and in a
batch of four. All three must agree, every check of the run audit must hold, and the source must be free of
clocks, counters, printing and files.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.conformance.scan import SCAN_CHECKS, scan
from harness.conformance.witness import Ears, WatchedBackbone, Witness
from harness.decoding.backbone import Backbone
from harness.decoding.registry import Method, load_method
from harness.decoding.rules import CanvasError
from harness.decoding.settings import build_config, describe, settings_of
from harness.engine.generator import Generator
from harness.engine.isolation.finding import find_method
from harness.engine.loader import Loaded
from harness.errors import UserError
from harness.measuring.audit import CHECK_NAMES, finished_length
from harness.measuring.clock import Decoded, decode
from harness.model.quantize import stored
from harness.model.text import before_eos
from harness.records.schema import AuditCheck

WITNESS_CHECKS = (
    "decodes",
    "canvas_contract",
    "tokens_through_commit",
    "forwards_through_backbone",
    "no_filler",
    "answer_not_cut",
    "deterministic",
    "batch_4_equals_batch_1",
    "model_untouched",
)
BATCH = 4


class CheckError(UserError, ValueError):
    """A method that cannot be checked at all, and the flag to change."""


@dataclass
class Findings:
    """Faults per check name; a name without faults has passed."""

    faults: dict[str, list[str]] = field(default_factory=dict)

    def expect(self, *names: str) -> None:
        for name in names:
            self.faults.setdefault(name, [])

    def add(self, name: str, *faults: str) -> None:
        self.faults.setdefault(name, []).extend(faults)

    def audited(self, rows: Sequence[Decoded]) -> None:
        for row in rows:
            for check in row.checks:
                if not check.passed:
                    self.add(check.name, check.detail or "failed")

    def checks(self) -> list[AuditCheck]:
        """In the order in which the names were first expected."""
        return [
            AuditCheck(name=name, passed=not faults, detail=_some(faults))
            for name, faults in self.faults.items()
        ]


def _some(faults: list[str]) -> str:
    distinct = list(dict.fromkeys(faults))
    return "; ".join(distinct[:3]) + (f"; and {len(distinct) - 3} more" if len(distinct) > 3 else "")


def open_method(name: str, isolate: bool = True) -> tuple[Method, Path | None, list[str]]:
    """The method, its source file, and what that file opened while it was imported.

    ``isolate``: what is not the project's own stays behind the glass, where it has nothing to open.
    """
    path = Path(name) if name.endswith(".py") or "/" in name else None
    if path is None:
        method = find_method(name) if isolate else load_method(name)
        found = None if method.isolated else inspect.getsourcefile(type(method.decoder))
        return method, Path(found) if found else None, []
    if isolate:
        return find_method(name), path, []
    with Ears.listen(path) as heard:
        method = load_method(name)
    # Loading reads the file itself through the registry; only what its own code opens is heard.
    return method, path, list(heard)


def check_method(
    method: Method,
    loaded: Loaded,
    settings: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    source: Path | None = None,
    opened: Sequence[str] = (),
    reference: Method | None = None,
) -> list[AuditCheck]:
    """All checks of one method on one model. ``reference``: the lossless baseline that a lossless method must
    equal.

    Raises SettingError for settings that contradict each other; a decoder that breaks is a failed check.
    """
    findings = Findings()
    _interface(findings, method)
    findings.expect(*SCAN_CHECKS)
    if source is not None:
        for name, faults in scan(source.read_text()).items():
            findings.add(name, *faults)
    findings.add("no_answers_read", *opened)
    findings.expect(*CHECK_NAMES, *WITNESS_CHECKS)
    generator = Generator(loaded, method.decoder, settings)
    weights = _weights(loaded.backbone)
    alone = _watched(findings, generator, prompts, source)
    _repeated(findings, generator, prompts, alone)
    if all(_weights(loaded.backbone)[name] == value for name, value in weights.items()):
        _against_reference(findings, generator, prompts, alone, reference)
    else:
        findings.add("model_untouched", "the model's weights or layers differ after decoding")
    return findings.checks()


def _interface(findings: Findings, method: Method) -> None:
    decoder = method.decoder
    findings.expect("interface", "settings_described")
    requires = getattr(decoder, "requires", None)
    if not isinstance(requires, frozenset) or not all(isinstance(need, str) for need in requires):
        findings.add("interface", "requires must be a frozenset of str")
    for name in ("name", "summary"):
        if not isinstance(getattr(decoder, name, None), str) or not getattr(decoder, name):
            findings.add("interface", f"{name} must be a non-empty str")
    if not is_dataclass(decoder.Config) or not decoder.Config.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        findings.add("interface", "Config must be a frozen dataclass")
        return
    for key, _, _, meaning in describe(decoder.Config):
        if not meaning:
            findings.add(
                "settings_described",
                f"setting {key} has no description: use Annotated[..., Field(description=...)]",
            )


def _weights(backbone: Backbone) -> dict[str, tuple[int, float]]:
    """Place and sum of every parameter, and the number of layers."""
    parts = {
        f"{name} {k}": (part.data_ptr(), float(part.double().abs().sum()))
        for name, tensor in backbone._model.named_parameters()
        for k, part in enumerate(stored(tensor))
    }
    return {**parts, "layers": (len(backbone._model.model.layers), 0.0)}


def _run(
    findings: Findings,
    generator: Generator,
    decoder: Any,
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
) -> list[Decoded] | None:
    canvas = generator.canvas(default=32)
    seeds = [generator.row_seed(prompt, 0) for prompt in prompts]
    try:
        rows = decode(backbone, decoder, generator.config, prompts, canvas, seeds=seeds)
    except UserError:
        raise
    except CanvasError as error:
        findings.add("canvas_contract", str(error))
        return None
    except Exception as error:
        findings.add("decodes", f"{type(error).__name__}: {error}".splitlines()[0])
        return None
    findings.audited(rows)
    return rows


def _watched(
    findings: Findings, generator: Generator, prompts: Sequence[Sequence[int]], source: Path | None
) -> list[Decoded | None]:
    backbone = WatchedBackbone(generator.loaded.backbone)
    witness = Witness(generator.decoder, source)
    greedy = not getattr(generator.config, "temperature", 0.0)
    alone = []
    for prompt in prompts:
        rows = _run(findings, generator, witness, backbone, [prompt])
        alone.append(rows[0] if rows else None)
        findings.add("no_answers_read", *witness.heard)
        witness.heard.clear()
        _judge(findings, witness, backbone, greedy, rows is not None)
    return alone


def _judge(
    findings: Findings, witness: Witness, backbone: WatchedBackbone, greedy: bool, ended: bool
) -> None:
    journal, canvas = witness.journal, witness.canvas
    assert journal is not None
    assert canvas is not None
    for fault in backbone.faults:
        findings.add("prompt_unchanged" if fault.startswith("prompt") else "tokens_through_commit", fault)
    findings.add("tokens_through_commit", *journal.past)
    if not ended:
        return
    findings.add("tokens_through_commit", *journal.differences(canvas))
    if witness.multiplied is not None and witness.multiplied[0] != witness.multiplied[1]:
        done, told = witness.multiplied
        findings.add(
            "forwards_through_backbone",
            f"{done / told if told else 0:.2f} times the multiplications of the metered forwards were done",
        )
    if greedy:
        findings.add("no_filler", *journal.guesses.values())
    row = canvas.rows[0]
    kept = finished_length(row)
    if row.eos_position is None and kept < canvas.rules.new_tokens / 2:
        findings.add(
            "answer_not_cut",
            f"closed after {kept} of {canvas.rules.new_tokens} tokens without an end-of-text",
        )


def _facts(row: Decoded) -> tuple[Any, ...]:
    return row.output, row.step_map, row.nfe, row.positions, row.forwards


def _repeated(
    findings: Findings,
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    alone: Sequence[Decoded | None],
) -> None:
    backbone = generator.loaded.backbone
    for index, prompt in enumerate(prompts):
        again = _run(findings, generator, generator.decoder, backbone, [prompt])
        before = alone[index]
        if again and before is not None and _facts(again[0]) != _facts(before):
            findings.add("deterministic", f"prompt {index}: {_difference(before, again[0])}")
    for start in range(0, len(prompts), BATCH):
        rows = _run(findings, generator, generator.decoder, backbone, prompts[start : start + BATCH])
        for offset, row in enumerate(rows or []):
            before = alone[start + offset]
            if before is not None and _facts(row) != _facts(before):
                findings.add("batch_4_equals_batch_1", f"prompt {start + offset}: {_difference(before, row)}")


def _difference(one: Decoded, other: Decoded) -> str:
    if one.output != other.output:
        at = next(
            (k for k, (a, b) in enumerate(zip(one.output, other.output, strict=False)) if a != b),
            min(len(one.output), len(other.output)),
        )
        return f"ids differ from output position {at}"
    return f"nfe {one.nfe} and {other.nfe}" if one.nfe != other.nfe else "same ids, other windows or steps"


def _longest_run(ids: Sequence[int]) -> int:
    return max((len(list(group)) for _, group in groupby(ids)), default=0)


def _common(config: Any, reference: Method) -> dict[str, Any]:
    """The settings of ``config`` that the reference has too and that mean something to it."""
    common = {}
    for key, value in settings_of(config).items():
        try:
            build_config(reference.name, reference.decoder.Config, {key: value})
        except UserError:
            continue
        common[key] = value
    return common


def _against_reference(
    findings: Findings,
    generator: Generator,
    prompts: Sequence[Sequence[int]],
    alone: Sequence[Decoded | None],
    reference: Method | None,
) -> None:
    """Filler and losslessness, against the reference at the settings both have."""
    lossless = getattr(generator.decoder, "lossless", False) is True
    if lossless:
        findings.expect("lossless_equals_reference")
    if reference is None:
        return
    config = build_config(reference.name, reference.decoder.Config, _common(generator.config, reference))
    canvas, eos = generator.canvas(default=32), generator.loaded.spec.eos_ids
    for index, (prompt, row) in enumerate(zip(prompts, alone, strict=True)):
        if row is None:
            continue
        seed = generator.row_seed(prompt, 0)
        truth = decode(generator.loaded.backbone, reference.decoder, config, [prompt], canvas, seeds=[seed])[
            0
        ]
        mine, theirs = (before_eos(one.output, one.step_map, eos) for one in (row, truth))
        if lossless and mine != theirs:
            findings.add("lossless_equals_reference", f"prompt {index}: {_difference(truth, row)}")
        if _longest_run(mine) >= canvas / 2 and _longest_run(theirs) < canvas / 4:
            findings.add(
                "no_filler",
                f"prompt {index}: one id {_longest_run(mine)} times in a row, {reference.name} "
                f"{_longest_run(theirs)}",
            )
