"""How often the 95% interval of a speed-up holds the truth, where the rows of a batch share one clock.

python -m tests.tools.coverage_check [--repetitions 200]

A method is compared with itself: the same answers, and for every decode call a clock of its own. Exit status
1 below 93%.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np

from harness.records.schema import Sample
from harness.statistics.speed import speedup
from tests.synthetic_runs import Fake, fake_samples

TEMPLATE = fake_samples(Fake(documents=1))[0]
LEAST = 0.93


def run_of(
    rng: np.random.Generator, lengths: Sequence[int], batch_size: int, passes: int, clock: float, spell: float
) -> list[Sample]:
    """A run over documents of these ``lengths`` (useful tokens): every call is slow or fast by ``clock``,
    every pass by ``spell``.
    """
    samples = []
    for repeat in range(passes):
        slow = spell * rng.standard_normal()
        for start in range(0, len(lengths), batch_size):
            rows = range(start, min(start + batch_size, len(lengths)))
            time_s = (
                max(lengths[row] for row in rows)
                / 100
                / len(rows)
                * math.exp(clock * rng.standard_normal() + slow)
            )
            number = repeat * len(lengths) + start
            shared = {"repeat": repeat, "batch": number, "rows": len(rows), "time_s": time_s}
            samples += [
                TEMPLATE.model_copy(
                    update={**shared, "doc_id": row, "order": number + row, "useful": lengths[row]}
                )
                for row in rows
            ]
    return samples


def coverage(
    batch_size: int,
    repetitions: int,
    *,
    documents: int = 64,
    passes: int = 1,
    spell: float = 0.0,
    draws: int = 1000,
) -> float:
    """Share of ``repetitions`` comparisons of a method with itself whose interval holds 1."""
    held = 0
    for seed in range(repetitions):
        rng = np.random.default_rng([batch_size, passes, seed])
        lengths = rng.integers(20, 60, documents).tolist()
        one, two = (run_of(rng, lengths, batch_size, passes, 0.05, spell) for _ in range(2))
        ratio = speedup(one, two, draws=draws, seed=seed)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 1 <= ratio.high
    return held / repetitions


def main() -> None:
    """Print the coverage of every case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args().repetitions
    worst = 1.0
    for documents, passes, spell in ((64, 1, 0.0), (256, 1, 0.0), (100, 3, 0.0), (64, 3, 0.02)):
        for batch_size in (1, 4, 16):
            found = coverage(
                batch_size, repetitions, documents=documents, passes=passes, spell=spell, draws=4000
            )
            worst = min(worst, found)
            print(
                f"{documents} documents, {passes} passes, spells {spell:.0%}, batch {batch_size:>2}: "
                f"{found:.1%}",
                flush=True,
            )
    sys.exit(worst < LEAST)


if __name__ == "__main__":
    main()
