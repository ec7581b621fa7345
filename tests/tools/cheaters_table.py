"""Writes the cheaters' table of docs/glass.md: every attempt in the harness' own process (a fork each) and
behind the glass.

python tests/tools/cheaters_table.py
python tests/tools/cheaters_table.py --backend unshare    (behind that jail: prints what differs)
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from harness.engine.generator import Generation
from harness.sandbox import launch
from harness.sandbox.order import Backend
from tests.cheaters.glass.attempts import ATTEMPTS
from tests.cheaters.glass.outcome import HONEST, answers, outcome

PAGE = Path(__file__).parents[2] / "docs" / "glass.md"
BEGIN, END = "<!-- attempts -->", "<!-- end -->"


def forked(work: Callable[[], str]) -> str:
    """The result of ``work`` in a child of this process."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(15)
        try:
            os.write(write, work().encode())
        except BaseException as error:
            os.write(write, f"breaks the harness ({type(error).__name__})".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text or "breaks the harness"


def row(name: str, honest: list[Generation]) -> str:
    """One line of the table."""
    attempt = ATTEMPTS[name]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        inside = "-" if attempt.alone else forked(lambda: outcome(name, place, False, honest))
        return f"| `{name}` | {attempt.what} | {inside} | {outcome(name, place, True, honest)} |".replace(
            folder, ""
        )


def compare(backend: str, honest: list[Generation]) -> None:
    """Print every attempt whose end behind ``backend`` is another than the table's."""
    launch.probe = lambda: (cast(Backend, backend), {})
    told = dict(
        re.findall(r"^\| `(\w+)` \|(?:[^|]*\|){2} ([^|(]*?)(?: \([^|]*\))? \|$", PAGE.read_text(), re.M)
    )
    others = 0
    for name in ATTEMPTS:
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(name, Path(folder), True, honest)
        if told[name] != found.partition(" (")[0]:
            others += 1
            print(f"{name}: {found}, not {told[name]}", flush=True)
    print(f"{backend}: {len(ATTEMPTS)} attempts, {others} end in another way than behind the strongest jail")


def main() -> None:
    """Rewrite the table between its marks."""
    torch.set_num_threads(1)
    os.environ["BENCH_CHEAT"] = "5"
    with tempfile.TemporaryDirectory() as folder:
        honest = answers(HONEST, Path(folder), isolate=False)
    if sys.argv[1:2] == ["--backend"]:
        compare(sys.argv[2], honest)
        return
    rows = []
    for name in ATTEMPTS:
        rows.append(row(name, honest))
        print(rows[-1], flush=True)
    head = ["| attempt | what it tries | in the harness' process | behind the glass |", "|---|---|---|---|"]
    text = PAGE.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text("\n".join([text[:start], "", *head, *rows, "", text[stop:]]))


if __name__ == "__main__":
    main()
