"""Dilated unmasking (DUS, arXiv 2506.19037): positions far from each other together, whatever their
confidence.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.decoding.row import Row
from harness.decoding.rules import Span
from harness.model import ModelSpec
from methods.rules.rule import Rule, above
from methods.rules.view import View


def dilated_groups(size: int, base: int) -> list[list[int]]:
    """Offsets in a block of ``size`` per step: every s-th one that is left, s falling from size / base to 1.

    A last group smaller than the one before is written with it.
    """
    left, groups, stride = list(range(size)), [], size
    while left:
        stride = max(stride // base, 1)
        group = [offset for offset in left if offset % stride == 0]
        left = [offset for offset in left if offset % stride]
        groups += [group] if group else []
    if len(groups) > 1 and len(groups[-1]) < len(groups[-2]):
        groups[-2:] = [sorted(groups[-2] + groups[-1])]
    return groups


class DilatedRule(Rule):
    """The next group of the schedule. With ``skip_threshold`` a token not above it waits for the next group;
    the last group never waits.

    The authors' repository could not be read: the schedule follows a third-party copy.
    """

    def __init__(self, row: Row, spec: ModelSpec, config: Any) -> None:
        super().__init__(row, spec, config)
        self.due: set[int] = set()
        self.groups: list[list[int]] = []

    def begin(self, block: Span) -> None:
        self.due, self.groups = (
            set(),
            [
                [block[0] + k for k in group]
                for group in dilated_groups(block[1] - block[0], self.config.base)
            ],
        )

    def confidence(self, view: View) -> Tensor:
        return view.probability

    def choose(self, view: View, score: Tensor) -> list[int]:
        self.due |= set(self.groups.pop(0)) if self.groups else set()
        chosen = [k for k in view.live if view.at[k] in self.due]
        skip = self.config.skip_threshold
        return chosen if skip is None or not self.groups else above(score, skip, chosen)
