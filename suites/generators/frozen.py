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
from functools import partial
from pathlib import Path
from typing import Any

from suites.generators import Split, code, code_long, gsm, gsm_long, parallel

SIZE = 256
SEED = 20261122
DATA = Path(__file__).resolve().parent.parent / "data"
DRAWS: dict[str, Callable[[random.Random, Split], Any]] = {
    "gsm": gsm.generate,
    "code": code.generate,
    "long-gsm": gsm_long.generate,
    "long-code": code_long.generate,
    **{f"parallel-{task}": partial(parallel.generate, task=task) for task in parallel.TASKS},
}
SETS: tuple[tuple[str, Split], ...] = tuple(
    (suite, split) for suite in DRAWS for split in ("test", "validation")
)


def full_name(suite: str) -> str:
    """The name of the suite that users see."""
    return suite if suite.startswith("parallel") else f"nano-{suite}"


def file_name(suite: str, split: Split) -> str:
    return f"{full_name(suite)}_{split}.jsonl".replace("-", "_")


def rows(suite: str, split: Split, size: int = SIZE, seed: int = SEED) -> list[dict[str, Any]]:
    """``size`` items of one suite and split with distinct keys, in a fixed order."""
    rng = random.Random(f"{seed}-{suite}-{split}")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < size:
        item = DRAWS[suite](rng, split)
        if item.key not in found:
            found[item.key] = {"id": f"{full_name(suite)}-{split}-{len(found):03d}", **asdict(item)}
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
