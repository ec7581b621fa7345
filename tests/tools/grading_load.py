"""Load: `bench grade` over many small programs. Throughput, memory over time, and what is left behind.

    python -m tests.tools.grading_load [--programs 20000]

Programs are nano-code's reference answers, one in five of them spoilt in some way: wrong, endless recursion,
files left, a thread left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from harness.sandbox.scratch import PREFIX
from suites.suite import load_suite
from tests.commands import BENCH

SPOILT = (
    "def {name}(*a, **k): return 'no'\n",
    "def {name}(*a, **k): return {name}(*a, **k)\n",
    "import os\nfor i in range(20): os.makedirs(f'a{{i}}/b/c')\ndef {name}(*a, **k): raise ValueError\n",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\ndef "
    "{name}(*a, **k): return 1 / 0\n",
)


def programs(count: int) -> list[str]:
    """Lines for `bench grade`."""
    documents = load_suite("nano-code").docs()
    lines = []
    for number in range(count):
        doc_id, doc = documents[number % len(documents)]
        program = doc["prompt"] + doc["response"]
        if number % 5 == 4:
            program += "\n" + SPOILT[number // 5 % len(SPOILT)].format(name=doc["entry_point"])
        lines.append(json.dumps({"doc_id": doc_id, "program": program}) + "\n")
    return lines


def memory(root: psutil.Process) -> tuple[float, float, int]:
    """Resident MB of the command, of its jails, and the number of processes."""
    own, rest, count = root.memory_info().rss, 0, 1
    for child in root.children(recursive=True):
        try:
            rest += child.memory_info().rss
            count += 1
        except psutil.NoSuchProcess:
            continue
    return own / 1e6, rest / 1e6, count


def main() -> None:
    """Print memory and progress every tenth of the way, then the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "programs.jsonl", Path(folder) / "graded.jsonl"
        file.write_text("".join(programs(options.programs)))
        scratch = Path(folder) / "tmp"
        scratch.mkdir(0o777)
        os.chmod(folder, 0o755)
        begin = time.perf_counter()
        command = [*BENCH, "grade", str(file), "--suite", "nano-code", "--output", str(out)]
        process = psutil.Popen(
            command, env={**os.environ, "TMPDIR": str(scratch)}, stdout=subprocess.PIPE, text=True
        )
        next_report = 0
        while process.poll() is None:
            done = out.read_bytes().count(b"\n") if out.exists() else 0
            if done >= next_report:
                own, rest, count = memory(process)
                seconds = time.perf_counter() - begin
                print(
                    f"{done:>6} graded, {seconds:6.1f} s, command {own:5.1f} MB, jails {rest:5.1f} MB in "
                    f"{count} processes",
                    flush=True,
                )
                next_report += options.programs // 10
            time.sleep(0.5)
        seconds = time.perf_counter() - begin
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        left = [path.name for path in scratch.glob(PREFIX + "*")]
        print(
            f"{len(rows)} graded in {seconds:.1f} s: {len(rows) / seconds:.0f} programs/s, "
            f"{sum(row['correct'] for row in rows)} correct"
        )
        print(
            f"not run: {sum(row['correct'] is None for row in rows)}; folders left: {len(left)}; load "
            f"{os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
