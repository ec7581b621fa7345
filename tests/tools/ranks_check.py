"""Data parallel training of every distiller: one rank against two, and two ranks killed three times.

python -m tests.tools.ranks_check [METHOD ...] [--kills 3] [--seed 0]

Prints per distiller the largest difference of any trained number (student, teacher snapshot, average, step of
the rounds): between one rank and two, at 2 batches per step in bfloat16 and at 4 in float32, and between a
run that was killed at random and one that was not. A tiny model, 6 steps per round, with dropout; gloo on the
processor. Of bfloat16 gradients few sums round; of float32 ones the order of adding shows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from methods.training.students.trainers import TRAINERS
from tests.ranks import difference, final_state, run_killed, run_ranks, tiny_base

ANSWERED = ("dcd", "cfd", "d3llm")


def words(method: str, base: Path, folder: Path, accumulate: int, every: int) -> list[str]:
    """The command that trains a distiller in ``folder``."""
    found = ["train", method, "--preset", "smoke", "--output", f"{folder}/out", "--work", f"{folder}/work"]
    settings = [f"accumulate={accumulate}", f"every={every}"]
    if method == "duo":
        settings += [f"base_steps={every}"]
    else:
        found += ["--model", str(base)]
        settings += ["tokens=256", "dropout=0.1", f"precision={'bf16' if accumulate == 2 else 'no'}"]
        settings += ["answers=6"] if method in ANSWERED else []
    return found + [part for one in settings for part in ("--set", one)]


def compared(method: str, base: Path, root: Path, accumulate: int) -> float:
    """Largest difference between one rank and two."""
    states = []
    for ranks in (1, 2):
        folder = root / f"{method}-{accumulate}-{ranks}"
        run_ranks(ranks, *words(method, base, folder, accumulate, 6))
        assert json.loads(next(folder.rglob("card.json")).read_text())["ranks"] == ranks
        states.append(final_state(folder / "work"))
    return difference(states[0], states[1])


def killed(method: str, base: Path, root: Path, kills: int, draws: random.Random) -> tuple[int, float]:
    """(kills that met a living run, largest difference to an undisturbed run), both of two ranks."""
    whole, cut = root / f"{method}-whole", root / f"{method}-cut"
    run_ranks(2, *words(method, base, whole, 2, 40))
    hit = run_killed(2, cut / "work", draws, *words(method, base, cut, 2, 40), kills=kills)
    return hit, difference(final_state(whole / "work"), final_state(cut / "work"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", default=[*TRAINERS, "duo"])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draws = random.Random(asked.seed)
    print("| distiller | 1 = 2 ranks, bfloat16 | 1 = 2 ranks, float32 | killed | after kills | seconds |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = tiny_base(root / "base")
        for method in asked.methods:
            started = time.perf_counter()
            two, four = (compared(method, base, root, accumulate) for accumulate in (2, 4))
            hit, after = killed(method, base, root, asked.kills, draws) if asked.kills else (0, 0.0)
            spent = time.perf_counter() - started
            print(f"| {method} | {two:.1e} | {four:.1e} | {hit} | {after:.1e} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
