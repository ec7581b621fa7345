"""Comparisons whose truth is known, on real decoding of nano: the same method twice, 1.3 times the forwards,
8 pp fewer solved.

python -m tests.tools.aa_check [--repetitions 20] [--items 64] [--passes 3] [--threads 1]

Each comparison is two interleaved runs through the engine, stored and read back. Exit status 1 if more than a
tenth of the identical comparisons claim a difference, or a planted one is missed. About eight minutes on two
quiet cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.decoding.registry import load_method
from harness.engine.generator import Generator
from harness.engine.loader import load
from harness.records.schema import Sample, find_runs, read_samples
from harness.runs.cell import Cell, Options, render
from harness.runs.turns import run_cells
from harness.statistics.verdict import Verdict, verdict
from suites.suite import load_suite

SUITE = "nano-gsm"
PLANTED = Path(__file__).parents[1] / "planted"
FEW = 64


def measure(methods: Sequence[tuple[str, dict[str, Any]]], items: int, passes: int) -> list[list[Sample]]:
    """Samples of each method: all of ``items`` problems ``passes`` times, interleaved problem by problem."""
    suite = load_suite(SUITE)
    documents = render(suite, items)
    with tempfile.TemporaryDirectory() as folder:
        cells = []
        for place, (name, settings) in enumerate(methods):
            method = load_method(name)
            generator = Generator(load("nano", method.decoder.requires), method.decoder, settings)
            options = Options(Path(folder) / str(place), repeats=passes, limit=items)
            cells.append(Cell(generator, method, suite, documents, options))
        run_cells(cells, None, lambda *_: None)
        for cell in cells:
            audit = cell.folder.run.audit
            assert audit is not None
            assert audit.passed, audit
            cell.folder.close()
        return [read_samples(next(find_runs(cell.options.output_path))) for cell in cells]


def identical(repetitions: int, items: int, passes: int) -> int:
    """False claims among ``repetitions`` comparisons of the autoregressive reference with itself."""
    false, missed = 0, 0
    for number in range(1, repetitions + 1):
        first, second = measure([("ar", {})] * 2, items, passes)
        found = verdict(first, second)
        assert found.speedup.low is not None
        assert found.speedup.high is not None
        outside = not found.speedup.low <= 1 <= found.speedup.high
        false += found.speed != "no difference" or found.accuracy_change != "no difference"
        missed += outside
        print(f"A/A {number:>2}: {found.text}{'  (interval without 1)' if outside else ''}", flush=True)
    print(
        f"A/A: {false} of {repetitions} claim a difference, {missed} intervals do not contain 1", flush=True
    )
    return false


def slowdown(items: int, passes: int) -> Verdict:
    """Vanilla against itself with 30% more forward passes."""
    plain, slow = measure(
        [("vanilla", {"tokens_per_step": 5}), (str(PLANTED / "slower.py"), {"tokens_per_step": 5})],
        items,
        passes,
    )
    found = verdict(plain, slow)
    forwards = sum(sample.nfe or 0 for sample in slow) / sum(sample.nfe or 0 for sample in plain)
    print(f"planted slowdown ({forwards:.2f} times the forwards), {items} problems: {found.text}", flush=True)
    print(
        f"  claim: {found.speed}; problems needed to find it with 80% power: {found.speed_documents_needed}",
        flush=True,
    )
    return found


def loss() -> tuple[Verdict, Verdict]:
    """The reference against itself with a tenth of the answers spoiled, on all problems and on the first of
    them.
    """
    plain, worse = measure([("ar", {}), (str(PLANTED / "worse.py"), {})], len(load_suite(SUITE).docs()), 1)
    few, every = (
        verdict([s for s in plain if s.doc_id < n], [s for s in worse if s.doc_id < n])
        for n in (FEW, len(plain))
    )
    for count, found in ((FEW, few), (len(plain), every)):
        decided, p_value = found.non_inferiority, found.accuracy_p
        assert decided is not None
        print(
            f"planted loss, {count} problems: {100 * (found.accuracy.estimate or 0):+.1f} pp, McNemar p "
            f"{p_value:.3g}; {found.text}"
        )
        print(
            f"  non-inferior: {decided.decision}; problems needed to decide with 80% power: "
            f"{decided.documents_needed}",
            flush=True,
        )
    return few, every


def main() -> None:
    """Run all comparisons and say whether each came out as it must."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--items", type=int, default=FEW)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    faults = []
    if identical(arguments.repetitions, arguments.items, arguments.passes) > arguments.repetitions // 10:
        faults.append("identical runs are called different too often")
    if slowdown(arguments.items, arguments.passes).speed != "slower":
        faults.append("the planted slowdown was missed")
    if loss()[1].accuracy_change != "worse":
        faults.append("the planted loss was missed")
    print(f"{'; '.join(faults) or 'all as it must be'} ({time.perf_counter() - started:.0f} s)")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
