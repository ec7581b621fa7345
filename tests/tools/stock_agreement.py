"""Agreement with the stock way of grading HumanEval and MBPP: program and tests executed as one text in one
process.

    python -m tests.tools.stock_agreement [--data-dir DATA] [--mutants 2] [--limit N]

Our verdicts come from tests that run outside the program's process, so this compares the two on reference and
mutated solutions. Expected differences: MBPP 367, whose set-up code stock never runs, and mutants of the
helpers in a HumanEval prompt, which stock takes from the program.
"""

from __future__ import annotations

import argparse
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from harness.sandbox import Check, Jail, Limits, open_jail
from suites.code import humaneval_check, mbpp_check
from suites.suite import load_suite
from tests.tools.evalplus_agreement import mutate

LIMITS = Limits(seconds=4)
RUN_ALL = """
def outcome(number):
    try:
        exec(compile({text!r}, "<stock>", "exec"), {{}})
    except BaseException as error:
        return type(error).__name__
    return "passed"
"""


@dataclass(frozen=True)
class Pair:
    """Two verdicts on one program."""

    doc_id: int
    program: str
    ours: bool
    stock: bool


def as_stock(program: str, tests: str) -> Check:
    """A check that executes program and tests as one text, inside the jail."""
    text = RUN_ALL.format(text=f"{program}\n{tests}")
    return Check(text, ("outcome",), tests="assert outcome(0) == 'passed'", limits=LIMITS, numpy=True)


def compare(
    name: str, jail: Jail, mutants: int, limit: int | None = None, data_dir: str | None = None
) -> list[Pair]:
    """Both verdicts on every reference solution and `mutants` faulty versions of it."""
    jobs = [
        (doc_id, doc, text)
        for doc_id, doc in load_suite(name, data_dir).docs(limit)
        for text in _programs(name, doc_id, doc, mutants)
    ]
    build = humaneval_check if name == "humaneval" else mbpp_check

    def both(job: tuple[int, dict[str, Any], str]) -> Pair:
        doc_id, doc, program = job
        tests = (
            f"{doc['test']}\ncheck({doc['entry_point']})"
            if name == "humaneval"
            else "\n".join(doc["test_list"])
        )
        ours = jail.run(replace(build(doc, program), limits=LIMITS, numpy=True))
        return Pair(doc_id, program, ours.passed, jail.run(as_stock(program, tests)).passed)

    with ThreadPoolExecutor(jail.workers) as pool:
        return list(pool.map(both, jobs))


def _programs(name: str, doc_id: int, doc: dict[str, Any], mutants: int) -> list[str]:
    gold = doc["prompt"] + doc["canonical_solution"] if name == "humaneval" else doc["code"]
    made = [mutate(gold, random.Random(f"{name}{doc_id}{number}")) for number in range(mutants)]
    return [gold, *(program for program in made if program is not None)]


def main() -> None:
    """Print counts and every difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--mutants", type=int, default=2)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    with open_jail() as jail:
        for name in ("humaneval", "mbpp") if arguments.data_dir else ("humaneval",):
            pairs = compare(name, jail, arguments.mutants, arguments.limit, arguments.data_dir)
            different = [pair for pair in pairs if pair.ours != pair.stock]
            print(
                f"{name}: {len(pairs)} programs, {sum(pair.ours for pair in pairs)} pass, {len(different)} "
                "verdicts differ",
                flush=True,
            )
            for pair in different:
                print(f"  document {pair.doc_id}: ours {pair.ours}, stock {pair.stock}", flush=True)


if __name__ == "__main__":
    main()
