"""The corpus of nano-long: long word problems and functions, short parallel tasks, bare equations, in two
lengths.

The short half is the same language with fewer steps, branches and words; training starts with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from methods.training.data.corpus import fit_tokenizer
from suites.generators import code_long, gsm_long, parallel

# As nano's, but a blank belongs to the digit, letter or sign behind it, wherever it stands: " 7" and " total"
# are one piece each.
PIECES = r"\nA:|\n####|\n *(?= )|\n| {3}(?= )| ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s"


@dataclass(frozen=True)
class LongMix:
    """Shares of the corpus; the rest is nano-long-code. ``drills`` are sheets of ``sheet`` bare equations;
    ``short``: short items.
    """

    gsm: float = 0.33
    drills: float = 0.08
    parallel: float = 0.24
    sheet: int = 6
    short: bool = False

    def shortened(self, parallel: float) -> LongMix:
        """Short items, with another share of parallel tasks; the others keep their proportions."""
        keep = (1 - parallel) / (1 - self.parallel)
        return replace(self, short=True, parallel=parallel, gsm=self.gsm * keep, drills=self.drills * keep)


def items(seed: int, count: int, mix: LongMix) -> Iterator[tuple[str, str]]:
    """``count`` training (prompt, response) pairs, the same for the same arguments."""
    rng = random.Random(seed)
    for _ in range(count):
        share = rng.random()
        if share < mix.gsm:
            item = gsm_long.generate(rng, "train", gsm_long.SHORT if mix.short else None)
        elif share < mix.gsm + mix.drills:
            item = gsm_long.drill(rng, count=mix.sheet)
        elif share < mix.gsm + mix.drills + mix.parallel:
            item = parallel.generate(
                rng, "train", rng.choice(parallel.TASKS), parallel.SHORT if mix.short else None
            )
        else:
            item = code_long.generate(rng, "train", code_long.SHORT if mix.short else None, with_tests=False)
        yield item.prompt, item.response


def train_tokenizer(seed: int, count: int = 20000) -> Tokenizer:
    """One piece for every word of the corpus (779 in all)."""
    return fit_tokenizer(items(seed, count, LongMix()), PIECES)
