"""The reference answers of every suite through ``bench grade``: what the best model could score.

    python -m tests.tools.gold_ceilings --data-dir DATA [--suite NAME ...]

Prints correct answers and documents of each suite, and the documents that fail.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.model.text import ANSWER
from suites.suite import list_suites, load_suite
from tests.commands import BENCH

MARK = f" {ANSWER} "


def gold(name: str, doc: dict[str, Any]) -> dict[str, str]:
    """A line for ``bench grade`` with the reference answer of a document: a whole program, or a text."""
    if name.startswith("humaneval"):
        return {"program": doc["prompt"] + doc["canonical_solution"]}
    if name.startswith("mbpp"):
        return {"program": doc["code"]}
    if name == "gsm8k":
        return {"text": doc["answer"]}
    if name.startswith("gsm8k"):
        text, _, number = doc["answer"].partition("#### ")
        return {"text": f"{text}{MARK if name.endswith('_ra') else ''}The answer is {number}."}
    if name.startswith("minerva"):
        return {
            "text": f"{doc['solution']}\nFinal Answer: The final answer is ${doc['answer']}$. I hope it is "
            "correct."
        }
    return {"text": MARK + doc["response"]} if name.endswith("-ra") else {"text": doc["response"]}


def graded(name: str, data_dir: str) -> tuple[list[bool], list[int], float]:
    """Whether each reference answer is right, the documents that fail, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "gold.jsonl", Path(folder) / "graded.jsonl"
        lines = [{"doc_id": doc_id, **gold(name, doc)} for doc_id, doc in load_suite(name, data_dir).docs()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        begin = time.perf_counter()
        command = [*BENCH, "grade", str(file), "--suite", name, "--data-dir", data_dir, "--output", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    return (
        [row["correct"] for row in rows],
        [row["doc_id"] for row in rows if not row["correct"]],
        time.perf_counter() - begin,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--suite", action="append", choices=list_suites())
    options = parser.parse_args()
    for name in options.suite or list_suites():
        right, failed, seconds = graded(name, options.data_dir)
        print(
            f"{name:<42} {sum(right):>5} of {len(right):<5} {seconds:6.1f} s  {failed[:20] or ''}", flush=True
        )


if __name__ == "__main__":
    main()
