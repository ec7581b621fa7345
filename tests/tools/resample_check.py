"""GRPO with and without further problems for groups that teach nothing, at equal processor time.

python -m tests.tools.resample_check [--suite nano-code] [--seconds 240] [--resample 2] [--seeds 0 1 2]

Per seed one run without and one with ``--resample``; both stop at the first step that ends behind so many
seconds of this process' time. Printed is the held-out pass@1 (greedy, the first documents of the suite) at
the half and at the end. Preset nano with 8 problems of 8 answers, float32, at a constant rate. Needs verl;
Ray is not started.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.decoding.registry import load_method
from harness.engine.loader import load
from harness.model.catalog import location
from harness.model.checkpoint import adds_bos
from harness.model.load import resolve
from harness.model.text import encode
from harness.model.tokenizer import load_tokenizer
from methods.training.grpo.evaluation import Evaluated, score
from methods.training.grpo.options import GRPOOptions, load_options
from methods.training.grpo.reward_client import RewardProcess
from methods.training.grpo.run import complete, require_verl, rewards_of, worker_options
from methods.training.grpo.tasks import load_tasks
from methods.training.grpo.work import LOG
from suites.suite import load_suite


@dataclass(frozen=True)
class Mark:
    """State of a run: steps and processor seconds so far, held-out outcome, and means of its log so far."""

    steps: int
    seconds: float
    held_out: Evaluated
    empty: float
    extra: float


def held_out(options: GRPOOptions, model: str, count: int) -> Evaluated:
    """Greedy outcome of a model on the first documents of the suite that is trained on."""
    requires = load_method(options.method).decoder.requires
    return score(load(model, requires, device=options.device), options, load_suite(options.suite), count)


def run(options: GRPOOptions, seconds: float, documents: int) -> Iterator[Mark]:
    """Train until the processor time is spent; what is reached at its half and at its end."""
    from methods.training.grpo.fit import Setting, fit
    from methods.training.grpo.launch import workers

    folder = resolve(location(options.model)).absolute()
    tokenizer, bos = load_tokenizer(folder), adds_bos(options.model, folder)
    tasks, level = load_tasks(options.suite, options.seed), options.make_estimator().level
    rewarder = RewardProcess(rewards_of(options, tasks.code))
    marks, steps, spent = [seconds / 2, seconds], 0, 0.0
    with workers(worker_options(options, folder), 1, ray=False) as group, rewarder as rewards:
        group.init()
        while marks:
            steps += 1
            here = replace(options, steps=steps)
            setting = Setting(here, group, tasks, rewards, lambda text: encode(tokenizer, text, bos), level)
            before = time.process_time()
            fit(setting, lambda row, step: None)
            spent += time.process_time() - before
            if spent >= marks[0]:
                marks = [mark for mark in marks if mark > spent]
                place = f"{options.output}-{steps}"  # models are loaded once per folder
                group.export(place)
                yield Mark(steps, spent, held_out(options, place, documents), *means(options.work))


def means(work: Path) -> tuple[float, float]:
    """Groups without variance and further answers of a step, over the log so far."""
    log = [json.loads(line) for line in (work / LOG).read_text().splitlines()]
    empty, extra = (
        sum(row.get(name, 0) for row in log) / len(log)
        for name in ("groups_without_variance", "extra_rollouts")
    )
    return empty, extra


COLUMNS = (
    "seed", "resample", "steps", "seconds", "held-out pass@1", "gain, pp", "forwards", "without variance",
    "further answers",
)  # fmt: skip


def asked_for(asked: argparse.Namespace, seed: int, rounds: int, folder: Path) -> GRPOOptions:
    """Settings of one run, which keeps its files in ``folder``."""
    return complete(
        load_options(
            "nano",
            asked.suite,
            output=folder / "policy",
            work=folder / "work",
            seed=seed,
            prompts=8,
            group=8,
            resample=rounds,
            schedule="constant",
            precision="float32",
            save_every=1,
            ray=False,
            device="cpu",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", default="nano-code")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--resample", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--documents", type=int, default=256)
    asked = parser.parse_args()
    require_verl()
    start = None
    print(f"| {' | '.join(COLUMNS)} |\n{'|--:' * len(COLUMNS)}|", flush=True)
    for seed in asked.seeds:
        for rounds in (0, asked.resample):
            with tempfile.TemporaryDirectory() as folder:
                options = asked_for(asked, seed, rounds, Path(folder))
                start = start or held_out(options, options.model, asked.documents)
                for mark in run(options, asked.seconds, asked.documents):
                    print(f"| {seed} | {rounds} | {told(mark, start)} |", flush=True)


def told(mark: Mark, start: Evaluated) -> str:
    """The other cells of a mark's row."""
    found = mark.held_out
    cells = (
        f"{mark.steps}",
        f"{mark.seconds:.0f}",
        f"{start.rate:.3f} → {found.rate:.3f}",
        f"{100 * (found.rate - start.rate):+.1f}",
        f"{found.nfe:.2f}",
        f"{mark.empty:.1f}",
        f"{mark.extra:.0f}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main()
