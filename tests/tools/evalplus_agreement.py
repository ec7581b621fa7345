"""Agreement with stock EvalPlus, verdict by verdict, on reference and mutated solutions of HumanEval+ and
MBPP+.

    python -m tests.tools.evalplus_agreement --data-dir DATA --evalplus-python PATH/TO/python --work FOLDER
    [--every 2]

DATA holds the suites' JSONL files and `evalplus/HumanEvalPlus-v0.1.10.jsonl`,
`evalplus/MbppPlus-v0.2.0.jsonl`. EvalPlus 0.3.1 may live in an environment of its own; it runs under
bubblewrap without network and may write to the work folder only.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.sandbox import open_jail
from harness.sandbox.backends import bubblewrap_binary
from suites.suite import Suite, load_suite

SUITES = {"humaneval": "humaneval_plus", "mbpp": "mbpp_plus"}
FILES = {"humaneval": "HumanEvalPlus-v0.1.10.jsonl", "mbpp": "MbppPlus-v0.2.0.jsonl"}
SWAPS: dict[type, type] = {
    **{
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.FloorDiv: ast.Div,
        ast.Div: ast.FloorDiv,
        ast.Mod: ast.FloorDiv,
    },
    **{
        ast.Lt: ast.LtE,
        ast.LtE: ast.Lt,
        ast.Gt: ast.GtE,
        ast.GtE: ast.Gt,
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.In: ast.NotIn,
    },
    **{ast.And: ast.Or, ast.Or: ast.And},
}


@dataclass(frozen=True)
class Sample:
    """One program to judge. kind: gold or mutant."""

    task_id: str
    doc_id: int
    kind: str
    program: str


def mutate(program: str, rng: random.Random) -> str | None:
    """The program with one small fault: a swapped operator, a constant off by one, a negated condition; None
    without a place for it.
    """
    tree = ast.parse(program)
    places = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in _places(function)
    ]
    if not places:
        return None
    node = rng.choice(places)
    if isinstance(node, ast.Constant):
        node.value = node.value + rng.choice((-1, 1))  # type: ignore[operator]
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, (ast.BinOp, ast.BoolOp)):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, (ast.If, ast.While)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    return ast.unparse(ast.fix_missing_locations(tree))


def _places(function: ast.FunctionDef) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        operator = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)
        whole = isinstance(node, ast.Constant) and type(node.value) is int
        swappable = isinstance(node, (ast.Compare, ast.BinOp, ast.BoolOp)) and type(operator) in SWAPS
        if whole or swappable or isinstance(node, (ast.If, ast.While)):
            yield node


def samples(suite: Suite, dataset: str, every: int) -> list[Sample]:
    """Every reference solution, and one mutant of every `every`-th problem; the same on every machine."""
    found = []
    for doc_id, doc in suite.docs():
        gold = doc["prompt"] + doc["canonical_solution"] if dataset == "humaneval" else doc["code"]
        task_id = doc["task_id"] if dataset == "humaneval" else f"Mbpp/{doc['task_id']}"
        found.append(Sample(task_id, doc_id, "gold", gold))
        mutant = mutate(gold, random.Random(f"{dataset}-{doc_id}")) if doc_id % every == 0 else None
        if mutant is not None:
            found.append(Sample(task_id, doc_id, "mutant", mutant))
    return found


def ours(suite: Suite, found: list[Sample]) -> list[str]:
    """Our gradings, in order."""
    documents = dict(suite.docs())
    with open_jail() as jail, ThreadPoolExecutor(jail.workers) as pool:
        return list(
            pool.map(
                lambda item: suite.grade_program(documents[item.doc_id], item.program, jail).grading, found
            )
        )


def evalplus(found: list[Sample], dataset: str, data: Path, python: str, work: Path) -> list[bool]:
    """Stock EvalPlus' verdicts (base and plus tests both passed), in order."""
    path = work / f"{dataset}.jsonl"
    path.write_text(
        "".join(json.dumps({"task_id": item.task_id, "solution": item.program}) + "\n" for item in found)
    )
    result = work / f"{dataset}_eval_results.json"
    if not result.exists():
        _run_evalplus(dataset, path, data / "evalplus" / FILES[dataset], python, work)
    verdicts = {task: list(rows) for task, rows in json.loads(result.read_text())["eval"].items()}
    return [
        (row := verdicts[item.task_id].pop(0))["base_status"] == "pass" and row["plus_status"] == "pass"
        for item in found
    ]


def _run_evalplus(dataset: str, path: Path, data: Path, python: str, work: Path) -> None:
    command = [
        str(bubblewrap_binary()),
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ]
    command += [
        "--bind",
        str(work),
        str(work),
        "--setenv",
        "HOME",
        str(work),
        "--setenv",
        "TMPDIR",
        str(work),
        "--chdir",
        str(work),
    ]
    command += [
        "--setenv",
        f"{dataset.upper()}_OVERRIDE_PATH",
        str(data),
        "--setenv",
        "EVALPLUS_MAX_MEMORY_BYTES",
        "-1",
    ]
    command += [
        python,
        "-m",
        "evalplus.evaluate",
        "--dataset",
        dataset,
        "--samples",
        str(path),
        "--parallel",
        str(os.cpu_count()),
    ]
    subprocess.run(
        [*command, "--min-time-limit", "4"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def main() -> None:
    """Print the table and every difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--evalplus-python", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    print("dataset    kind     n  both pass  both fail  only ours  only EvalPlus")
    for dataset, name in SUITES.items():
        suite = load_suite(name, str(arguments.data_dir))
        found = samples(suite, dataset, arguments.every)
        mine = ours(suite, found)
        theirs = evalplus(found, dataset, arguments.data_dir.resolve(), arguments.evalplus_python, work)
        for kind in ("gold", "mutant"):
            rows = [
                (grading == "passed", verdict)
                for item, grading, verdict in zip(found, mine, theirs, strict=True)
                if item.kind == kind
            ]
            counts = [
                rows.count(pair) for pair in ((True, True), (False, False), (True, False), (False, True))
            ]
            print(
                f"{dataset:<10} {kind:<7} {len(rows):>3}  {counts[0]:>9}  {counts[1]:>9}  {counts[2]:>9}  "
                f"{counts[3]:>13}",
                flush=True,
            )
        for item, grading, verdict in zip(found, mine, theirs, strict=True):
            if (grading == "passed") != verdict:
                print(
                    f"  differs: {item.task_id} {item.kind}: ours {grading}, EvalPlus "
                    f"{'pass' if verdict else 'fail'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
