"""A sweep of twelve cells on nano: in one go, killed twice and continued, and through Ray with two workers;
the answers must be equal.

python -m tests.tools.sweep_check [--limit 4] [--kills 2] [--no-ray]

Prints cells, samples and seconds of each; exit status 1 if any answer differs. Ray comes with the extra
`train`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.commands import BENCH, answers

SWEEP = """
suites: [nano-gsm, nano-code]
limit: {limit}
methods:
  - method: vanilla
    settings: {{tokens_per_step: [4, 8]}}
  - method: fast_dllm
    settings: {{cache: dual, threshold: [0.8, 0.9]}}
  - method: d2f
  - method: ar
"""
CELLS = 12


def start(file: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    """The sweep in a process of its own."""
    command = [*BENCH, "sweep", str(file), "-o", str(output), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(output: Path) -> int:
    """Cells with an outcome."""
    path = output / "sweep.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stored(output: Path) -> int:
    """Samples on the disk."""
    return sum(path.read_bytes().count(b"\n") for path in output.rglob("samples.jsonl"))


def finish(name: str, file: Path, output: Path, *flags: str) -> None:
    """Run to the end; AssertionError unless every cell completed."""
    begin = time.perf_counter()
    process = start(file, output, *flags)
    out, err = process.communicate()
    assert process.returncode == 0, f"{out}\n{err}"
    assert f"{CELLS} complete of {CELLS} cells" in out, out
    print(
        f"{name:<34} {CELLS} cells, {stored(output)} samples, {time.perf_counter() - begin:.0f} s", flush=True
    )


def killed(file: Path, output: Path, kills: int) -> None:
    """Start the sweep and kill it while a cell is being decoded, ``kills`` times."""
    for number in range(1, kills + 1):
        process = start(file, output)
        goal, before = ended(output) + 3, stored(output)
        while process.poll() is None and not (ended(output) >= goal and stored(output) > before):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        print(
            f"kill {number}: {ended(output)} of {CELLS} cells ended, {stored(output)} samples stored",
            flush=True,
        )
        assert ended(output) < CELLS


def main() -> None:
    """Run, kill, continue, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--no-ray", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = root / "sweep.yaml"
        file.write_text(SWEEP.format(limit=arguments.limit))
        finish("in one go", file, root / "calm")
        killed(file, root / "killed", arguments.kills)
        finish(f"continued after {arguments.kills} kills", file, root / "killed")
        if not arguments.no_ray:
            finish("through Ray, two workers", file, root / "ray", "--ray", "--workers", "2")
        names = [path.name for path in root.iterdir() if path.is_dir() and path.name != "calm"]
        differing = [name for name in names if answers(root / name) != answers(root / "calm")]
    print(
        f"answers differ: {', '.join(differing)}"
        if differing
        else f"the same answers in calm, {', '.join(sorted(names))}"
    )
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
