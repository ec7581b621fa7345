"""Checks per second of the jail on HumanEval and, with --data-dir, HumanEval+ and MBPP+ reference solutions.

python -m tests.tools.jail_speed [--workers 2] [--data-dir DATA] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

import psutil

from harness.sandbox import Check, Jail, Limits, open_jail
from suites.plus import PLUS_SLOW
from suites.suite import load_suite

TYPICAL_CASES = 200


def checks(name: str, data_dir: str | None, cases: int | None = None) -> list[Check]:
    """One check per document, without the problems whose reference solution takes seconds; `cases` shortens
    the lists of inputs.
    """
    from harness.sandbox import Cases

    suite = load_suite(name, data_dir)
    assert suite.scorer is not None
    found = []
    for _, doc in suite.docs():
        program = doc["prompt"] + doc["canonical_solution"] if "canonical_solution" in doc else doc["code"]
        check = replace(
            suite.scorer.build(doc, program), limits=Limits(seconds=60, memory_mb=4096, output_kb=64 << 10)
        )
        if check.cases is not None and cases is not None:
            old = check.cases
            check = replace(
                check, cases=Cases(old.inputs[:cases], old.expected[:cases], old.atol, old.oracle)
            )
        if check.names[0] not in PLUS_SLOW:
            found.append(check)
    return found


def processor_seconds() -> float:
    """Processor time so far of this process, its jails and what ran in them."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(jail: Jail, todo: list[Check], repeats: int) -> tuple[float, float, int]:
    """Checks per second, processor seconds per check, and how many passed; the first pass warms up and is not
    counted.
    """
    jail.run_many(todo)
    begin, used = time.perf_counter(), processor_seconds()
    verdicts = jail.run_many(todo * repeats)
    seconds = time.perf_counter() - begin
    return (
        len(verdicts) / seconds,
        (processor_seconds() - used) / len(verdicts),
        sum(verdict.passed for verdict in verdicts),
    )


def main() -> None:
    """Print one line per suite."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data-dir")
    arguments = parser.parse_args()
    wanted: list[tuple[str, int | None]] = [("humaneval", None)]
    if arguments.data_dir:
        wanted += [("humaneval_plus", TYPICAL_CASES), ("humaneval_plus", None), ("mbpp_plus", None)]
    with open_jail(workers=arguments.workers) as jail:
        for name, cases in wanted:
            todo = checks(name, arguments.data_dir, cases)
            mean = sum(len(check.cases.inputs) for check in todo if check.cases) / len(todo)
            rate, cost, passed = measure(jail, todo, arguments.repeats)
            row = (
                f"{name:<15} {len(todo)} programs, {mean:4.0f} cases each: {rate:6.1f} checks/s, "
                f"{1000 * cost:5.1f} ms of CPU each"
            )
            print(f"{row}, {passed} passed, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
