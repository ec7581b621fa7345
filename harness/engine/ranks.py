"""Ranks of a launcher (torchrun, accelerate launch): how many there are, and the refusal of commands that are
one process.
"""

from __future__ import annotations

import os

from harness.errors import UserError


class RankError(UserError, RuntimeError):
    """A launcher's ranks where they are not supported, or ranks that lost each other."""


def world_size() -> int:
    """Number of ranks that the launcher started; 1 without a launcher."""
    told = os.environ.get("WORLD_SIZE", "1")
    return int(told) if told.isdecimal() else 1


def first_rank() -> bool:
    """Whether this process may speak and write for all."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


def one_process(command: str, advice: str = "") -> None:
    """RankError where a launcher started several ranks of ``command``: each would do the same work over."""
    if (count := world_size()) > 1:
        text = f"{command} runs as one process, and WORLD_SIZE says that {count} were started: start it"
        raise RankError(f"{text} without torchrun or accelerate launch" + (f"; {advice}" if advice else ""))
