"""Everything to be measured in the first ten minutes on a GPU, in one command that writes one folder.

python -m tests.tools.gpu FOLDER [--only NAME]... (``make gpu``) runs every step in a process of its own with
a time limit; FOLDER gets logs/STEP.txt, the speed tables (speed), runs of nano (runs), summary.json and
summary.md. A step that fails or runs out of its time is named and the next one begins; the same command goes
on with what is missing.

--dry-run does the same steps without a GPU, in this process, on the stand-in of tests/card.py, which refuses
what a GPU would refuse: one layer of nano, few cells. It proves that the steps can run, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch

from harness.measuring import roofline
from harness.measuring.environment import capture, device_name
from harness.records.files import write_atomic
from reports.speed import load_speed, markdown
from tests.card import CARD, Card
from tests.commands import BENCH, bench

ROOT = Path(__file__).resolve().parents[2]
RUNS = "results/leaderboard/cpu-intel-xeon-processor/nano-gsm"
GRACE_S = 20
"""Between the interrupt that ends a step and its death: a table says what is safe."""

SMALL = {
    "--shape": "nano",
    "--layers": "1",
    "--dtype": "float32",
    "--rows": "1,2",
    "--query": "1,8",
    "--cached": "0,8",
    "--rounds": "1",
    "--repeats": "1",
    "--answers": "1",
}
"""What a dry run puts in the place of a step's values."""
SMALL_RUN = {
    "--method": "d2f",
    "--suite": "nano-gsm",
    "--limit": "2",
    "--protocol": "quick",
    "--dtype": "float32",
}
"""The same of ``bench run``. In this process, since the stand-in is: a decoder behind glass has its own."""


@dataclass(frozen=True)
class Step:
    """``words``: of ``bench``, or of ``pytest``. ``limit_s``: seconds after which it is interrupted."""

    name: str
    words: tuple[str, ...]
    limit_s: int


@dataclass
class Done:
    name: str
    command: str
    seconds: float
    status: str


def steps(folder: Path, device: str) -> list[Step]:
    """The most telling first; limits sum to ten minutes."""
    store, runs = ("--output_path", str(folder / "speed")), ("--output_path", str(folder / "runs"))
    on, batches = ("--device", device), ("--rows", "1,16")
    dream = ("speed", "--shape", "dream7b", *on, *batches, *store)
    replay = (*dream, "--replay", str(ROOT / RUNS))
    nano = ("run", *on, "--limit", "32", "--protocol", "standard", *runs)
    return [
        Step("dream7b", dream, 75),
        Step("dream7b-replay", (*replay, "--answers", "8"), 75),
        Step(
            "dream7b-replay-prompt-900",
            (*replay, "--answers", "8", "--rounds", "2", "--prompt-tokens", "900"),
            80,
        ),
        Step("tests", ("pytest", "-m", "gpu", "-n", "0", "tests"), 60),
        Step("dream7b-flash", (*dream, "--attention", "flash"), 40),
        Step("dream7b-compiled", (*dream, "--compile"), 60),
        Step("dream7b-block-causal", (*dream, "--block_size", "32", "--query", "32,128"), 40),
        Step("llada8b", ("speed", "--shape", "llada8b", *on, *batches, *store), 45),
        Step("qwen3-0.6b", ("speed", "--shape", "qwen3-0.6b", *on, *batches, *store), 35),
        Step("nano", ("speed", "--shape", "nano", *on, *batches, *store), 20),
        Step("nano-run", nano, 35),
        Step("nano-run-16", (*nano, "--batch_size", "16"), 35),
    ]


def run(step: Step, folder: Path) -> Done:
    """One step as a process; its output goes to logs/NAME.txt."""
    pytest = step.words[0] == "pytest"
    command = [sys.executable, "-m", *step.words] if pytest else [*BENCH, *step.words]
    log = folder / "logs" / f"{step.name}.txt"
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        status = _wait(process, step.limit_s)
    return Done(step.name, told(step), round(time.monotonic() - started, 1), status)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> str:
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return f"stopped after {limit_s} s"
    return "ok" if code == 0 else f"failed with {code}"


def told(step: Step) -> str:
    """The step's command as a reader types it; of paths outside the repository the last part."""
    words = step.words if step.words[0] == "pytest" else ("bench", *step.words)
    return " ".join(map(_shown, words))


def _shown(word: str) -> str:
    path = Path(word)
    if not path.is_absolute():
        return word
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def dry_words(step: Step) -> list[str]:
    """The words of a ``bench`` step at a size for a stand-in."""
    words, running = list(step.words), step.words[0] == "run"
    for flag, value in (SMALL_RUN if running else SMALL).items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    words[words.index("--device") + 1] = CARD.type
    if running:
        words.append("--no-isolate")
    if "--replay" in words:
        place = words.index("--replay") + 1
        words[place] = str(next(Path(words[place]).glob("d2f-*")))
        words = [word for word in words if word not in ("--query", "1,8", "--cached", "0,8")]
    return words


def dry_run(step: Step, folder: Path) -> Done:
    """One step in this process on the stand-in; steps for kernels that it lacks, and pytest's, are named as
    not run.
    """
    if {"--attention", "--compile"} & set(step.words):
        return Done(step.name, told(step), 0.0, "not run: the stand-in has no such kernels")
    if step.words[0] == "pytest":
        return Done(step.name, told(step), 0.0, "not run: these tests need a GPU")
    words, started = dry_words(step), time.monotonic()
    with (
        mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache")),
        mock.patch.object(roofline, "BUDGET_S", 0.0),
        Card(),
    ):
        done = bench(*words)
    (folder / "logs" / f"{step.name}.txt").write_text(done.stdout + done.stderr)
    status = "ok" if done.returncode == 0 else f"failed with {done.returncode}"
    return Done(
        step.name, "bench " + " ".join(map(_shown, words)), round(time.monotonic() - started, 1), status
    )


def summary(folder: Path, done: Sequence[Done], device: torch.device, dry: bool) -> str:
    """Write summary.json and summary.md; the latter's text."""
    name = "a stand-in for a GPU: nothing here is a measurement" if dry else device_name(device)
    record = {
        "device": name,
        "dry_run": dry,
        "environment": capture(device),
        "steps": [asdict(one) for one in done],
    }
    write_atomic(folder / "summary.json", json.dumps(record, indent=1) + "\n")
    lines = [
        f"# First measurements on {name}\n",
        "| step | seconds | status | command |",
        "|---|--:|---|---|",
    ]
    lines += [f"| {one.name} | {one.seconds:g} | {one.status} | `{one.command}` |" for one in done]
    tables = load_speed(folder / "speed")
    text = "\n".join(lines) + "\n\n" + markdown(tables, "speed/report/plots")
    write_atomic(folder / "summary.md", text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", action="append", help="name of a step; repeatable")
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args(arguments)
    chosen = [
        step
        for step in steps(asked.folder.resolve(), asked.device)
        if not asked.only or step.name in asked.only
    ]
    if not chosen:
        parser.error(f"--only {asked.only}: no such step")
    if not asked.dry_run and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no CUDA device here: nothing was measured (--dry-run tries the "
            "steps without one)",
            file=sys.stderr,
        )
        return 2
    (asked.folder / "logs").mkdir(parents=True, exist_ok=True)
    work: Callable[[Step, Path], Done] = dry_run if asked.dry_run else run
    done = []
    for step in chosen:
        print(f"{step.name}: {told(step)} (at most {step.limit_s} s)", file=sys.stderr)
        done.append(work(step, asked.folder.resolve()))
        print(f"{step.name}: {done[-1].status}, {done[-1].seconds:g} s", file=sys.stderr)
        device = torch.device("cpu" if asked.dry_run else asked.device)
        summary(asked.folder, done, device, asked.dry_run)
    print(asked.folder / "summary.md")
    return int(any("failed" in one.status for one in done))


if __name__ == "__main__":
    sys.exit(main())
