"""Whether something else uses the machine now: a busy one gives speeds that are too low, and another order of
methods.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

SHARE = 0.2
"""Cores in use by others, as a share of the usable ones, from which a machine is called busy."""


@dataclass(frozen=True)
class Business:
    """``used``: cores that others kept busy while this process slept, of the ``cores`` it may use; ``load``:
    processes that ran or waited, mean of the last minute (None: the system does not say).
    """

    used: float
    cores: int
    load: float | None

    @property
    def busy(self) -> bool:
        return self.used >= SHARE * self.cores

    @property
    def text(self) -> str:
        load = "" if self.load is None else f", load {self.load:.1f}"
        return f"other processes use {self.used:.1f} of {self.cores} cores{load}"


def look(seconds: float = 0.2) -> Business:
    """Watch the cores that this process may use for ``seconds``, doing nothing itself."""
    psutil.cpu_percent(percpu=True)
    time.sleep(seconds)
    shares = psutil.cpu_percent(percpu=True)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    mine = [shares[core] for core in usable if core < len(shares)] or shares
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Business(sum(mine) / 100, len(mine), load)


def warning(seen: Business, threads: int = 2, turns: bool = False) -> str | None:
    """What to say before a measurement on a busy machine, naming the flags that are not given yet: one of
    torch's ``threads``, methods in ``turns``. None: it is quiet.
    """
    if not seen.busy:
        return None
    flags = [
        *(["--threads 1"] if threads > 1 else []),
        *(["--protocol standard (methods in turns, times repeated)"] if not turns else []),
    ]
    advice = f", or give {' and '.join(flags)}" if flags else ""
    return (
        f"warning: this machine is busy ({seen.text}): speeds will be too low and methods may change "
        f"places; wait until it is quiet{advice}"
    )
