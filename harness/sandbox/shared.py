"""One jail for the whole process, opened at first use: what lm-eval's scoring uses, since it passes no jail around."""

from __future__ import annotations

import atexit
import os
import threading

from harness.sandbox.check import Limits
from harness.sandbox.jail import Jail, open_jail

UNSAFE_VARIABLE = "BENCH_ALLOW_UNSAFE_CODE"
_lock = threading.Lock()
_jails: dict[bool, Jail] = {}


def shared_jail(numpy: bool = False, limits: Limits | None = None) -> Jail:
    """The process-wide jail, with or without numpy for the programs; `limits` only counts at first use.

    Raises JailError where nothing isolates, unless BENCH_ALLOW_UNSAFE_CODE=1.
    """
    with _lock:
        if numpy not in _jails:
            _jails[numpy] = open_jail(limits, allow_unsafe=os.environ.get(UNSAFE_VARIABLE) == "1", numpy=numpy)
        return _jails[numpy]


def close_shared() -> None:
    """End the process-wide jails; the next use opens new ones."""
    with _lock:
        while _jails:
            _jails.popitem()[1].close()


atexit.register(close_shared)
