"""A language of three-letter words with known rules: quality and diversity of samples can be counted exactly.

``words`` distinct words over ``letters`` tokens; each word has ``followers`` allowed successors. A text is a
chain of words, unconditional, uniform over its start and over the allowed successors.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

WIDTH = 3


@dataclass(frozen=True)
class Quality:
    """Share of valid words, share of valid neighbouring pairs, entropy (nats) of the histogram of valid
    words.
    """

    words: float
    pairs: float
    entropy: float


class Language:
    """The dictionary and its grammar; a function of the seed alone."""

    def __init__(self, letters: int = 10, words: int = 14, followers: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, letters, words, followers])
        codes = rng.choice(letters**WIDTH, words, replace=False)
        self.letters = letters
        self.words = np.stack([codes // letters**2, codes // letters % letters, codes % letters], axis=1)
        self.next = np.stack([rng.choice(words, followers, replace=False) for _ in range(words)])
        self._index = {tuple(word): i for i, word in enumerate(self.words.tolist())}

    def sample(self, rng: np.random.Generator, rows: int, length: int = 5) -> np.ndarray:
        """Texts of ``length`` words: ids [rows, 3 * length]."""
        chain = np.empty((rows, length), np.int64)
        chain[:, 0] = rng.integers(0, len(self.words), rows)
        for i in range(1, length):
            chain[:, i] = self.next[chain[:, i - 1], rng.integers(0, self.next.shape[1], rows)]
        return self.words[chain].reshape(rows, -1)

    def judge(self, ids: np.ndarray) -> Quality:
        """Quality of texts [rows, 3 * length]."""
        rows = [
            [self._index.get(tuple(word), -1) for word in text]
            for text in ids.reshape(len(ids), -1, WIDTH).tolist()
        ]
        pairs = [(a, b) for row in rows for a, b in pairwise(row)]
        valid = [word for row in rows for word in row if word >= 0]
        counts = Counter(valid)
        entropy = -sum(n / len(valid) * math.log(n / len(valid)) for n in counts.values())
        good = sum(a >= 0 and b in self.next[a] for a, b in pairs)
        return Quality(len(valid) / (len(rows) * len(rows[0])), good / max(1, len(pairs)), entropy)
