"""Tokens per second of processor time that training takes, against another checkout of this project.

python -m tests.tools.training_speed BEFORE [METHOD ...] [--models nano large] [--rounds 5]

BEFORE is a folder with the other checkout. Both run in processes of their own on the same batches, in turns.
Printed are the medians over the rounds (positions of a batch by seconds of processor time, its forward and
backward passes on one thread) and of the ratio. Models as in `tests.tools.memory_check`; float32, an adapter
of rank 16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tools.memory_check import TOKENS, large

HERE = Path(__file__).parents[2]
WORKER = """
import sys, time
from pathlib import Path
import torch
from methods.training.options import preset
from methods.training.students.student import Student
from methods.training.students.trainers import TRAINERS
method, model, folder, tokens = sys.argv[1:]
given = {"model": model, "output": Path(folder), "work": Path(folder) / "work", "tokens": int(tokens)}
given |= {"rank": 16, "answers": 0, "pool_items": 400, "precision": "no"}
student = Student(preset(TRAINERS[method].options, method, "smoke", given), method)
student.net.train()
loss_at = TRAINERS[method].build(student)
for line in sys.stdin:
    size = student.rows(int(line)).ids.numel()
    started = time.process_time()
    found = loss_at(int(line))
    for loss in [found] if isinstance(found, torch.Tensor) else found:
        loss.backward()
    print(size, time.process_time() - started, flush=True)
    student.net.zero_grad(set_to_none=True)
"""


def worker(checkout: Path, *words: str) -> subprocess.Popen[str]:
    """A process that computes the batches whose numbers it reads."""
    place = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, *words]
    return subprocess.Popen(
        command, cwd=checkout, env=place, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def speed(process: subprocess.Popen[str], batch: int) -> float:
    """Positions per second of a batch."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{batch}\n")
    process.stdin.flush()
    size, seconds = process.stdout.readline().split()
    return int(size) / float(seconds)


def compared(before: Path, method: str, model: str, tokens: int, rounds: int) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        pair = [worker(place, method, model, folder, str(tokens)) for place in (before, HERE)]
        try:
            for process in pair:
                speed(process, 0)  # warms up
            found = [[speed(process, batch) for process in pair] for batch in range(1, rounds + 1)]
        finally:
            for process in pair:
                process.kill()
                process.wait()
    old, new = (statistics.median(row[side] for row in found) for side in (0, 1))
    return f"{old:.0f} | {new:.0f} | {statistics.median(b / a for a, b in found):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("methods", nargs="*", default=["d2f", "cfd"])
    parser.add_argument("--models", nargs="*", default=list(TOKENS), choices=list(TOKENS))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print("| method | model | tokens | before, tokens/s | now, tokens/s | ratio |")
    print("|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        models = {"nano": "nano"} if "nano" in asked.models else {}
        if "large" in asked.models:
            models["large"] = str(large(Path(folder) / "large"))
        for name, model in models.items():
            for method in asked.methods:
                row = compared(asked.before.resolve(), method, model, TOKENS[name], asked.rounds)
                print(f"| {method} | {name} | {TOKENS[name]} | {row} |", flush=True)


if __name__ == "__main__":
    main()
