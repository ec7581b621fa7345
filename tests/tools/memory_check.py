"""The memory estimate of training held against measured peaks, at two sizes.

python -m tests.tools.memory_check [METHOD ...] [--models nano large]

nano, and 117 million parameters with a vocabulary of 152,064 (random weights), an adapter of rank 16 in
float32, with and without gradient checkpointing. Measured is the largest number of bytes of tensors alive, as
an accelerator's allocator counts them, over two steps of one batch with their optimiser. Stays below 3 GB.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from harness.model.catalog import location
from harness.model.load import resolve
from harness.model.spec import ModelSpec
from methods.training import export, nano
from methods.training.loop.loop import trained
from methods.training.options import preset
from methods.training.students import estimate
from methods.training.students.student import Student
from methods.training.students.trainers import TRAINERS
from tests.allocated import Allocated, tensors_of

LARGE = ModelSpec("qwen2", 152_064, 320, 1152, 12, 5, 5, 64, qkv_bias=True)
TOKENS = {"nano": 1024, "large": 256}
MB = 1e6


def large(folder: Path) -> Path:
    """The larger model, with nano's tokenizer: its further words are never met."""
    tokenizer = Tokenizer.from_file(str(resolve(location("nano")) / "tokenizer.json"))
    export.save_model(folder, nano.new_model(LARGE, 0), tokenizer, diffusion=True)
    return folder


def measured(student: Student[Any]) -> float:
    """Bytes of tensors alive at the peak of two steps."""
    loss_at, optimisers = TRAINERS[student.method].build(student), student.optimisers()
    student.net.train()
    with Allocated([*tensors_of(student.net, student.rounds), *trained(optimisers)]) as alive:
        for batch in range(2):
            found = loss_at(batch)
            for loss in [found] if isinstance(found, Tensor) else found:
                loss.backward()
                del loss
            del found
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
    return alive.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(TRAINERS))
    parser.add_argument("--models", nargs="*", default=list(TOKENS), choices=list(TOKENS))
    asked = parser.parse_args()
    print("| method | model | tokens | checkpointing | estimate, MB | measured, MB | ratio |")
    print("|---|---|--:|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        models = {name: "nano" for name in asked.models if name == "nano"}
        if "large" in asked.models:
            models["large"] = str(large(Path(folder) / "large"))
        for method in asked.methods:
            for name, model in models.items():
                for again in (False, True):
                    row = (name, TOKENS[name], "yes" if again else "no")
                    given = {"model": model, "output": Path(folder), "work": Path(folder) / "work"}
                    given |= {"tokens": TOKENS[name], "rank": 16, "answers": 0, "pool_items": 400}
                    given |= {"precision": "no", "gradient_checkpointing": again}
                    options = preset(TRAINERS[method].options, method, "smoke", given)
                    student = Student(options, method)
                    planned = estimate.memory(estimate.run_of(student)).total
                    peak = measured(student)
                    shown = f"{planned / MB:.0f} | {peak / MB:.0f} | {planned / peak:.2f}"
                    print(f"| {method} | {' | '.join(map(str, row))} | {shown} |", flush=True)
                    del student
                    gc.collect()


if __name__ == "__main__":
    main()
