"""Checks per second of the jail on HumanEval and, with --data-dir, HumanEval+ and MBPP+ reference solutions.

python -m tests.jail_speed [--workers 2] [--data-dir DATA] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

from harness.sandbox import Check, Jail, Limits, open_jail
from suites import load_suite
from suites.plus import PLUS_SLOW

TYPICAL_CASES = 200


def checks(name: str, data_dir: str | None, cases: int | None = None) -> list[Check]:
    """One check per document, without the problems whose reference solution takes seconds; `cases` shortens the lists of inputs."""
    from harness.sandbox import Cases

    suite = load_suite(name, data_dir)
    assert suite.scorer is not None
    found = []
    for _, doc in suite.docs():
        program = doc["prompt"] + doc["canonical_solution"] if "canonical_solution" in doc else doc["code"]
        check = replace(suite.scorer.build(doc, program), limits=Limits(seconds=60, memory_mb=4096, output_kb=64 << 10))
        if check.cases is not None and cases is not None:
            old = check.cases
            check = replace(check, cases=Cases(old.inputs[:cases], old.expected[:cases], old.atol, old.oracle))
        if check.names[0] not in PLUS_SLOW:
            found.append(check)
    return found


def measure(jail: Jail, todo: list[Check], repeats: int) -> tuple[float, int]:
    """Checks per second of wall-clock time, and how many passed; the first pass warms up and is not counted."""
    jail.run_many(todo)
    begin = time.perf_counter()
    verdicts = jail.run_many(todo * repeats)
    return len(verdicts) / (time.perf_counter() - begin), sum(verdict.passed for verdict in verdicts)


def main() -> None:
    """Print one line per suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            rate, passed = measure(jail, todo, arguments.repeats)
            load = os.getloadavg()[0]
            print(
                f"{name:<15} {len(todo)} programs, {mean:5.0f} cases each: {rate:6.1f} checks/s, {passed} passed, load {load:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
