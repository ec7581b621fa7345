"""The frozen validation and test sets: 256 items each, one key never twice.

    python -m suites.generators.frozen suites/data     # write the files and their SHA256SUMS again

The files are committed; regenerating must give the same bytes, so a change of a generator that
reaches a frozen set shows up as a failing test and needs a new version of the suite.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from suites.generators import Split, code, gsm

SIZE = 256
SEED = 20261122
DATA = Path(__file__).resolve().parent.parent / "data"
SETS: tuple[tuple[str, Split], ...] = (("gsm", "test"), ("gsm", "validation"), ("code", "test"), ("code", "validation"))


def file_name(suite: str, split: Split) -> str:
    return f"nano_{suite}_{split}.jsonl"


def rows(suite: str, split: Split, size: int = SIZE, seed: int = SEED) -> list[dict[str, Any]]:
    """``size`` items of one suite and split with distinct keys, in a fixed order."""
    rng = random.Random(f"{seed}-{suite}-{split}")
    draw: Callable[[], Any] = (lambda: gsm.generate(rng, split)) if suite == "gsm" else (lambda: code.generate(rng, split))
    found: dict[str, dict[str, Any]] = {}
    while len(found) < size:
        item = draw()
        if item.key not in found:
            found[item.key] = {"id": f"nano-{suite}-{split}-{len(found):03d}", **asdict(item)}
    return list(found.values())


def render(suite: str, split: Split) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(suite, split))


def load(suite: str, split: Split, folder: Path = DATA) -> list[dict[str, Any]]:
    """The committed items of one set, as dictionaries."""
    return [json.loads(line) for line in (folder / file_name(suite, split)).read_text().splitlines()]


def write(folder: Path) -> None:
    """Write all sets and SHA256SUMS into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = []
    for suite, split in SETS:
        text = render(suite, split)
        (folder / file_name(suite, split)).write_text(text)
        sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {file_name(suite, split)}\n")
    (folder / "SHA256SUMS").write_text("".join(sorted(sums, key=lambda line: line.split()[1])))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
