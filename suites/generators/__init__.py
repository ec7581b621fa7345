"""Generators of the embedded suites and the rule that keeps their splits apart.

An item's split is a hash of its *key*: the problem's structure and numbers, without names, objects or
wording. Two items with the same key are the same problem, so they always fall in the same split and
training data can never contain a validation or test problem in other words.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_of(key: str) -> Split:
    """Split of the problem ``key``: a tenth each for test and validation, the rest for training."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10
    if bucket == 0:
        return "test"
    return "validation" if bucket == 1 else "train"
